"""`llmcore demo`: the whole life of a model in minutes, from text to rewarded answers, and a page that shows it."""
