"""The steps of a tokenizer.json as Hugging Face's `tokenizers` takes them, for the files that no quick path reads."""
