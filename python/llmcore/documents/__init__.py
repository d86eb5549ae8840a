"""Documents: files, folders, JSONL and parquet to texts, for tokenizers and training alike."""
