"""The built-in corpus: size, contents, determinism, no side effects, a cache that can be broken at will."""

import hashlib
import json
import os
import subprocess
import sys
import types

import pytest

from llmcore.data import CorpusError, read_corpus
from llmcore.data import docstrings as docstrings_module
from llmcore.data import python_docs as module
from llmcore.data.docstrings import DocEntry, source_entries, standard_library_docstrings


@pytest.fixture(scope="module")
def shared_cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def cache_folder(shared_cache, monkeypatch):
    monkeypatch.setenv("LLMCORE_CACHE", str(shared_cache))


@pytest.fixture(scope="module")
def entries(shared_cache):
    """The docstrings of which the corpus in the cache was built."""
    found = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLMCORE_CACHE", str(shared_cache))
        patch.setattr(
            module, "standard_library_docstrings", lambda: found.append(standard_library_docstrings()) or found[0]
        )
        module.python_docs()
    return found[0]


def test_corpus_has_prose_and_api_text(entries):
    corpus = read_corpus("python-docs")
    assert corpus.name == "python-docs"
    size = corpus.train_bytes + corpus.validation_bytes
    assert size > 1_000_000
    assert corpus.validation_bytes / size == pytest.approx(0.1, abs=0.015)
    text = b"\n".join(corpus.train + corpus.validation).decode("utf-8")
    assert "posixpath.join(a, *p)\n\n    Join two or more pathname components" in text
    assert "class json.encoder.JSONEncoder" in text
    assert "math.sqrt(x, /)\n\n    Return the square root of x." in text


def test_topics_are_in_it():
    topics = pytest.importorskip("pydoc_data.topics").topics
    assert topics["assert"].strip().encode() + b"\n" in module.python_docs()


def test_docstrings_are_those_that_python_has(entries):
    import inspect
    import json.decoder
    import textwrap

    by_name = {entry.name: entry for entry in entries}
    for name, value in {
        "textwrap.dedent": textwrap.dedent,
        "json.decoder.JSONDecoder": json.decoder.JSONDecoder,
    }.items():
        assert by_name[name].docstring.split() == inspect.getdoc(value).split()
    assert by_name["textwrap.dedent"].signature == "textwrap.dedent" + str(inspect.signature(textwrap.dedent))
    assert by_name["builtins.len"].docstring == inspect.getdoc(len)
    assert by_name["builtins.str.join"].signature == "builtins.str.join(iterable, /)"
    assert by_name["json"].kind == "module"


def test_no_docstring_twice_and_none_of_tests_or_jokes(entries):
    texts = [entry.docstring for entry in entries]
    assert len(texts) == len(set(texts))
    modules = {entry.module for entry in entries}
    assert not modules & {"this", "antigravity"}
    assert not any(part in ("test", "tests", "idlelib", "lib2to3") for name in modules for part in name.split("."))


def test_source_entries(tmp_path):
    source = tmp_path / "m.py"
    source.write_text(
        '"""Module."""\n'
        "try:\n    import x\nexcept ImportError:\n    def late(a): 'In a handler.'\n"
        "class A(Base, metaclass=M):\n    '''A class.\n\n    Text:\n        indented   \n    '''\n"
        "    def method(self, a: int = 3, /, *args, key='x', **kw) -> str:\n        'A method.'\n"
        "    @staticmethod\n    def free(a): 'Static.'\n"
        "    @classmethod\n    def make(cls): 'Class method.'\n"
        "    @property\n    def size(self): 'A property.'\n"
        "    class Inner: 'Nested.'\n"
        "async def wait(): 'Async.'\n"
        "def silent(): pass\n"
        "def surrogate(): 'a \\udc80'\n"
    )
    rendered = {entry.name: entry.render() for entry in source_entries("m", source)}
    assert rendered == {
        "m": "m\n\nModule.\n",
        "m.late": "m.late(a)\n\n    In a handler.\n",
        "m.A": "class m.A(Base)\n\n    A class.\n\n    Text:\n        indented\n",
        "m.A.method": "m.A.method(a: int=3, /, *args, key='x', **kw) -> str\n\n    A method.\n",
        "m.A.free": "m.A.free(a)\n\n    Static.\n",
        "m.A.make": "m.A.make()\n\n    Class method.\n",
        "m.A.size": "m.A.size\n\n    A property.\n",
        "m.A.Inner": "class m.A.Inner\n\n    Nested.\n",
        "m.wait": "async m.wait()\n\n    Async.\n",
        "m.surrogate": "m.surrogate()\n\n    a \\udc80\n",
    }
    source.write_text("def (")
    assert list(source_entries("m", source)) == []


SUBPROCESS = """
import hashlib, json, sys
before = set(sys.modules)
from llmcore.data.python_docs import python_docs
documents = python_docs(cache=False)
digest = hashlib.sha256(b"\\0".join(documents)).hexdigest()
print(json.dumps({"digest": digest, "modules": sorted(sys.modules)}))
"""


def test_same_in_every_process_and_nothing_with_side_effects_is_imported(entries):
    results = []
    for seed in ("1", "2"):
        result = subprocess.run(
            [sys.executable, "-W", "error", "-c", SUBPROCESS],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PYTHONHASHSEED": seed},
        )
        assert result.stderr == ""
        results.append(json.loads(result.stdout))
    here = hashlib.sha256(b"\0".join(module.python_docs())).hexdigest()
    assert results[0]["digest"] == results[1]["digest"] == here
    assert not {"antigravity", "this", "tkinter", "idlelib", "turtle", "test"} & set(results[0]["modules"])


def test_cache_is_used_and_rebuilt_when_broken(shared_cache, monkeypatch, tmp_path):
    documents = module.python_docs()
    (path,) = shared_cache.iterdir()
    whole = path.read_bytes()

    def no_build():
        raise AssertionError("the cache was not used")

    with monkeypatch.context() as patch:
        patch.setattr(module, "_build", no_build)
        assert module.python_docs() == documents
    monkeypatch.setenv("LLMCORE_CACHE", str(tmp_path / "new"))
    (tmp_path / "new").mkdir()
    path = tmp_path / "new" / path.name
    monkeypatch.setattr(module, "_build", lambda: [b"rebuilt"])
    for broken in (b"", whole[:-1], whole[:70], b"\xff" + whole, whole.replace(b"the", b"eht", 1), b"x\n[]"):
        path.write_bytes(broken)
        assert module.python_docs() == [b"rebuilt"]
    assert module.python_docs() == [b"rebuilt"]
    assert list(path.parent.iterdir()) == [path]


def test_a_cache_that_cannot_be_written_is_no_failure(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("LLMCORE_CACHE", str(tmp_path / "file" / "below"))
    monkeypatch.setattr(module, "_build", lambda: [b"built"])
    assert module.python_docs() == [b"built"]


def test_cache_tells_a_more_complete_python_apart(monkeypatch):
    before = module._cache_path()
    assert module._cache_path() == before
    monkeypatch.setattr(module, "library_modules", lambda library: [("json", library / "json.py")])
    assert module._cache_path() != before


def test_cache_folder(monkeypatch, tmp_path):
    monkeypatch.delenv("LLMCORE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert module._cache_path().parent == tmp_path / "llmcore"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert module._cache_path().parent == tmp_path / ".cache/llmcore"


def test_without_topics_docstrings_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    big = [DocEntry("m", "m.f", "function", "m.f()", "x" * 300_000)]
    monkeypatch.setattr(module, "standard_library_docstrings", lambda: big)
    (document,) = module.python_docs(cache=False)
    assert document.startswith(b"m.f()\n\n    xxx")


def test_bare_interpreter_is_one_clear_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    monkeypatch.setattr(module, "standard_library_docstrings", list)
    with pytest.raises(
        CorpusError, match=r"missing: pydoc_data\.topics and the sources of the standard library in"
    ) as caught:
        module.python_docs(cache=False)
    assert "\n" not in str(caught.value)


def test_programs_that_patch_builtins_change_nothing(monkeypatch):
    def names():
        return {entry.name for entry in docstrings_module._c_module_entries("builtins")}

    before = names()
    monkeypatch.setattr("builtins.added", types.SimpleNamespace(__doc__="Added."), raising=False)
    monkeypatch.setattr("builtins.also_added", lambda: None, raising=False)
    assert names() == before
