"""What tests of training runs share."""

from pathlib import Path

from llmcore.train.checkpoint import latest_checkpoint, load_checkpoint

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def assert_same_weights(one, other) -> None:
    """The model and the last checkpoint of two runs, to the bit."""
    assert Path(one, "model.safetensors").read_bytes() == Path(other, "model.safetensors").read_bytes()
    (tensors, _), (tensors2, _) = (load_checkpoint(latest_checkpoint(run)) for run in (one, other))
    assert tensors.keys() == tensors2.keys()
    for key, values in tensors.items():
        assert values.tobytes() == tensors2[key].tobytes(), key
