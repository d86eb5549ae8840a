"""`llmcore demo`: a model's whole life in minutes, from text to answers that were rewarded, and a page that shows it."""
