"""Changes to a tokenizer.json, to see how it is read."""


def put(*path_and_value):
    """put('model', 'vocab', {}) makes a function that sets that field of a document."""
    *path, last, value = path_and_value

    def change(document):
        for name in path:
            document = document[name]
        document[last] = value

    return change
