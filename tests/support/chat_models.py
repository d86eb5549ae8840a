"""Small models with ChatML, saved as every stage of fine-tuning reads them, and what they are asked."""

from pathlib import Path

from llmcore import models
from llmcore.generate import LanguageModel
from llmcore.generate.chat.template import ChatTemplate
from llmcore.tokenizer import Tokenizer

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]

FACTS = [(f"What is {a} plus {b}?", f"It is {a + b}.") for a in range(4) for b in range(4)]
QUESTIONS = [f"What is {a} and {b}?" for a in "abcdef" for b in "uvwxyz"]


def save_chat_model(folder, texts, vocab_size: int, architecture: str = "llama", **sizes) -> Path:
    """Train a tokenizer on `texts`, and save a model with it that has learned nothing yet."""
    tokenizer = Tokenizer.train(iter(texts), vocab_size, pattern="gpt2", special_tokens=SPECIALS)
    kind = models.ARCHITECTURES[architecture]
    sizes = {"context": 128, "width": 32, "layers": 2, "heads": 4, **sizes}
    model = kind(kind.config_class(vocab_size=tokenizer.vocab_size, **sizes), "float32", seed=3)
    end = tokenizer.special_tokens["<|im_end|>"]
    return LanguageModel(model, tokenizer, [end], ChatTemplate(CHATML)).save(folder)
