"""llmcore on an NVIDIA GPU beside torch, and what `gpu.sh` needs besides."""
