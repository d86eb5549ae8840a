"""
llmcore's C++ core: tensors, kernels and the tokenizer. Use it through the llmcore package.
"""

from __future__ import annotations

import collections.abc
import typing

import numpy
import numpy.typing
import typing_extensions

__all__: list[str] = [
    "BPE",
    "Activation",
    "ActivationSource",
    "AddedTokens",
    "Array",
    "BPETrainer",
    "CacheBlocks",
    "DType",
    "GeneralBPE",
    "JsonVocabulary",
    "Model",
    "Panels",
    "Plan",
    "QuantizedMatrix",
    "Regex",
    "SentencePieceBPE",
    "SentencePieceNormalizer",
    "Unigram",
    "UpdateBatch",
    "VocabularyParts",
    "WordLevel",
    "WordPiece",
    "activate",
    "activate_backward",
    "adamw",
    "add",
    "attention",
    "attention_backward",
    "available_cpus",
    "cache_append",
    "cast",
    "check_pattern",
    "compiled_isas",
    "concat",
    "cross_entropy",
    "cross_entropy_backward",
    "cuda_info",
    "current_isa",
    "embedding",
    "embedding_backward",
    "empty",
    "exp",
    "fast_bf16",
    "from_dlpack",
    "from_numpy",
    "global_norm",
    "layer_norm",
    "linear",
    "linear_bias_grad",
    "linear_cross_entropy",
    "linear_cross_entropy_grad",
    "linear_weight_grad",
    "lion",
    "log",
    "log_one_minus",
    "machine_peak",
    "machine_read",
    "matmul",
    "memory_stats",
    "momentum",
    "mul",
    "norm_backward",
    "num_threads",
    "orthogonalised",
    "pack",
    "philox",
    "quantized_linear",
    "quantized_rows",
    "quantized_values",
    "read_ranks",
    "release_cached_memory",
    "reset_peak_memory",
    "rms_norm",
    "rope",
    "rope_append",
    "sample",
    "scale",
    "set_cuda_paths",
    "set_num_threads",
    "sgd",
    "sigmoid",
    "softcap",
    "softcap_backward",
    "softmax",
    "softmax_backward",
    "split",
    "sum",
    "synchronize",
    "take",
    "take_backward",
    "to_dlpack",
    "try_numpy",
    "unicode_class",
    "unspell",
    "weighted_sum",
    "weighted_sum_backward",
    "zeros",
]

class DType:
    """
    Members:

      float32

      bfloat16

      int32

      int64

      uint32

      uint8
    """

    __members__: typing.ClassVar[dict[str, DType]]
    bfloat16: typing.ClassVar[DType]
    float32: typing.ClassVar[DType]
    int32: typing.ClassVar[DType]
    int64: typing.ClassVar[DType]
    uint32: typing.ClassVar[DType]
    uint8: typing.ClassVar[DType]
    @typing.overload
    def __eq__(self, other: DType) -> bool: ...
    @typing.overload
    def __eq__(self, other: typing.Any) -> bool: ...
    def __getstate__(self) -> int: ...
    def __hash__(self) -> int: ...
    def __index__(self) -> int: ...
    def __init__(self, value: typing.SupportsInt | typing.SupportsIndex) -> None: ...
    def __int__(self) -> int: ...
    @typing.overload
    def __ne__(self, other: DType) -> bool: ...
    @typing.overload
    def __ne__(self, other: typing.Any) -> bool: ...
    def __repr__(self) -> str: ...
    def __setstate__(self, state: typing.SupportsInt | typing.SupportsIndex) -> None: ...
    def __str__(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def value(self) -> int: ...

class Array:
    """
    Storage with a shape and strides; llmcore.Tensor adds gradients.
    """
    def contiguous(self) -> Array: ...
    def copy_from(self, src: Array) -> None: ...
    def narrow(
        self,
        dim: typing.SupportsInt | typing.SupportsIndex,
        start: typing.SupportsInt | typing.SupportsIndex,
        length: typing.SupportsInt | typing.SupportsIndex,
    ) -> Array: ...
    def numpy(self) -> numpy.ndarray:
        """
        A numpy view of the same memory (for a device, a read-only copy); bfloat16 as uint16.
        """
    def reshape(self, shape: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex]) -> Array: ...
    def to(self, device: str) -> Array:
        """
        Return this array, or a copy on another device.
        """
    def zero(self) -> None: ...
    @property
    def device(self) -> str: ...
    @property
    def dtype(self) -> DType: ...
    @property
    def is_contiguous(self) -> bool: ...
    @property
    def nbytes(self) -> int: ...
    @property
    def ndim(self) -> int: ...
    @property
    def shape(self) -> tuple: ...
    @property
    def size(self) -> int: ...

class Plan:
    """
    A recording of ops, to be replayed in the same memory.
    """
    def __init__(self) -> None: ...
    def __len__(self) -> int: ...
    def begin(self) -> None:
        """
        Start recording this thread's ops as they run.
        """
    def end(self) -> None: ...
    def run(self) -> None: ...

class Activation:
    """
    Members:

      none

      gelu

      gelu_exact

      silu

      swiglu

      geglu
    """

    __members__: typing.ClassVar[dict[str, Activation]]
    geglu: typing.ClassVar[Activation]
    gelu: typing.ClassVar[Activation]
    gelu_exact: typing.ClassVar[Activation]
    none: typing.ClassVar[Activation]
    silu: typing.ClassVar[Activation]
    swiglu: typing.ClassVar[Activation]
    @typing.overload
    def __eq__(self, other: Activation) -> bool: ...
    @typing.overload
    def __eq__(self, other: typing.Any) -> bool: ...
    def __getstate__(self) -> int: ...
    def __hash__(self) -> int: ...
    def __index__(self) -> int: ...
    def __init__(self, value: typing.SupportsInt | typing.SupportsIndex) -> None: ...
    def __int__(self) -> int: ...
    @typing.overload
    def __ne__(self, other: Activation) -> bool: ...
    @typing.overload
    def __ne__(self, other: typing.Any) -> bool: ...
    def __repr__(self) -> str: ...
    def __setstate__(self, state: typing.SupportsInt | typing.SupportsIndex) -> None: ...
    def __str__(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def value(self) -> int: ...

class Panels:
    """
    A matrix packed for the kernels.
    """
    def other_direction(self) -> Panels:
        """
        The same memory for products in the other direction (CUDA only).
        """
    @property
    def K(self) -> int: ...
    @property
    def N(self) -> int: ...
    @property
    def data(self) -> Array: ...
    @property
    def dtype(self) -> DType: ...
    @property
    def paired(self) -> bool: ...

class QuantizedMatrix:
    """
    A matrix that stays quantized.
    """
    def __init__(
        self,
        parts: collections.abc.Sequence[tuple[str, Array]],
        K: typing.SupportsInt | typing.SupportsIndex,
        device: str = "cpu",
    ) -> None:
        """
        Stacks parts of (GGUF type name, uint8 blocks (rows, bytes per row)).
        """
    @property
    def device(self) -> str: ...
    @property
    def nbytes(self) -> int: ...
    @property
    def shape(self) -> tuple[int, int]: ...

class ActivationSource:
    """
    What a product with a quantized matrix first computes from its rows.

    Members:

      rows

      rms_norm

      swiglu

      geglu
    """

    __members__: typing.ClassVar[dict[str, ActivationSource]]
    geglu: typing.ClassVar[ActivationSource]
    rms_norm: typing.ClassVar[ActivationSource]
    rows: typing.ClassVar[ActivationSource]
    swiglu: typing.ClassVar[ActivationSource]
    @typing.overload
    def __eq__(self, other: ActivationSource) -> bool: ...
    @typing.overload
    def __eq__(self, other: typing.Any) -> bool: ...
    def __getstate__(self) -> int: ...
    def __hash__(self) -> int: ...
    def __index__(self) -> int: ...
    def __init__(self, value: typing.SupportsInt | typing.SupportsIndex) -> None: ...
    def __int__(self) -> int: ...
    @typing.overload
    def __ne__(self, other: ActivationSource) -> bool: ...
    @typing.overload
    def __ne__(self, other: typing.Any) -> bool: ...
    def __repr__(self) -> str: ...
    def __setstate__(self, state: typing.SupportsInt | typing.SupportsIndex) -> None: ...
    def __str__(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def value(self) -> int: ...

class CacheBlocks:
    """
    Where the keys and values of a batch's rows are in a pool.
    """
    def __init__(self, blocks: Array, k_scale: Array | None = None, v_scale: Array | None = None) -> None: ...

class UpdateBatch:
    """
    Sends the updates in its `with` block to the device together; on the CPU, one by one.
    """
    def __enter__(self) -> None: ...
    def __exit__(self, arg0: typing.Any, arg1: typing.Any, arg2: typing.Any) -> None: ...
    def __init__(self) -> None: ...

class VocabularyParts:
    """
    Tokens by id and merges by rank for BPE, which consumes them: usable once.
    """

class JsonVocabulary:
    """
    The vocabulary and the merges of a tokenizer.json.
    """
    @staticmethod
    def read(document: bytes) -> JsonVocabulary | None:
        """
        Returns None for a malformed document: json.loads can report why.
        """
    def find(self, spellings: collections.abc.Sequence[str]) -> list[int | None]:
        """
        The ids of some spellings, or None.
        """
    def parts(
        self,
        specials: collections.abc.Sequence[tuple[str, typing.SupportsInt | typing.SupportsIndex]],
        alphabet: str,
        max_gap: typing.SupportsInt | typing.SupportsIndex,
    ) -> VocabularyParts | None:
        """
        Without the special tokens that are nothing else; None if anything is malformed.
        """
    @property
    def rest(self) -> bytes:
        """
        The document with null in place of both.
        """
    @property
    def size(self) -> int: ...

class BPE:
    """
    A byte-level BPE vocabulary: immutable, used by any number of threads.
    """
    @staticmethod
    def from_ranks(
        tokens: collections.abc.Sequence[bytes],
        pattern: str | collections.abc.Sequence[str],
        specials: collections.abc.Sequence[
            tuple[str, typing.SupportsInt | typing.SupportsIndex, typing.SupportsInt | typing.SupportsIndex]
        ],
        always: collections.abc.Sequence[
            tuple[str, typing.SupportsInt | typing.SupportsIndex, typing.SupportsInt | typing.SupportsIndex]
        ] = [],
    ) -> BPE: ...
    @typing.overload
    def __init__(
        self,
        tokens: collections.abc.Sequence[bytes],
        merges: collections.abc.Sequence[
            tuple[typing.SupportsInt | typing.SupportsIndex, typing.SupportsInt | typing.SupportsIndex]
        ],
        pattern: str | collections.abc.Sequence[str],
        whole_piece_first: bool,
        specials: collections.abc.Sequence[
            tuple[str, typing.SupportsInt | typing.SupportsIndex, typing.SupportsInt | typing.SupportsIndex]
        ],
        always: collections.abc.Sequence[
            tuple[str, typing.SupportsInt | typing.SupportsIndex, typing.SupportsInt | typing.SupportsIndex]
        ] = [],
    ) -> None: ...
    @typing.overload
    def __init__(
        self,
        parts: VocabularyParts,
        pattern: str | collections.abc.Sequence[str],
        whole_piece_first: bool,
        specials: collections.abc.Sequence[
            tuple[str, typing.SupportsInt | typing.SupportsIndex, typing.SupportsInt | typing.SupportsIndex]
        ],
        always: collections.abc.Sequence[
            tuple[str, typing.SupportsInt | typing.SupportsIndex, typing.SupportsInt | typing.SupportsIndex]
        ] = [],
    ) -> None: ...
    def count(self, text: typing.Any, specials: typing.Any, normalized: bool = False) -> int: ...
    def decode_array(self, ids: typing.Annotated[numpy.typing.ArrayLike, numpy.int64]) -> bytes: ...
    def decode_list(self, ids: list) -> bytes: ...
    def encode(self, text: typing.Any, specials: typing.Any, normalized: bool = False) -> list: ...
    def encode_array(
        self, text: typing.Any, specials: typing.Any, normalized: bool = False
    ) -> numpy.typing.NDArray[numpy.uint32]: ...
    def encode_batch(self, texts: list, specials: typing.Any, arrays: bool) -> list: ...
    def encode_offsets(self, text: typing.Any, specials: typing.Any) -> tuple: ...
    def merges_by_rank(self) -> bool:
        """
        Whether tiktoken's rule gives the same ids.
        """
    def raw_specials(self, text: bytes, specials: typing.Any) -> list:
        """
        Where the special tokens that are looked for before text is normalized begin and end, and their ids.
        """
    def token_bytes(self, id: typing.Any) -> bytes: ...
    @property
    def by_rank(self) -> bool: ...
    @property
    def drops_first_space(self) -> bool: ...
    @property
    def ends_at_line_ends(self) -> bool: ...
    @property
    def merges(self) -> list[tuple[int, int]]: ...
    @property
    def ordinary_tokens(self) -> list[bytes]:
        """
        The tokens by id, without those that are special or added tokens alone.
        """
    @property
    def pattern(self) -> typing.Any: ...
    @property
    def specials(self) -> dict: ...
    @property
    def vocab_size(self) -> int: ...
    @property
    def whole_piece_first(self) -> bool: ...

class SentencePieceBPE(BPE):
    """
    A SentencePiece-style BPE vocabulary.
    """
    def __init__(
        self,
        *,
        tokens: collections.abc.Sequence[bytes],
        merges: collections.abc.Sequence[
            tuple[typing.SupportsInt | typing.SupportsIndex, typing.SupportsInt | typing.SupportsIndex]
        ],
        scores: collections.abc.Sequence[typing.SupportsFloat | typing.SupportsIndex],
        byte_tokens: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex],
        unknown: typing.SupportsInt | typing.SupportsIndex | None,
        fuse_unknown: bool,
        prefix: str,
        prefix_unless_space: bool,
        split_at_spaces: bool,
        drop_first_space: bool,
        symbols: collections.abc.Sequence[
            tuple[str, typing.SupportsInt | typing.SupportsIndex, typing.SupportsInt | typing.SupportsIndex]
        ],
        added_tokens: collections.abc.Sequence[
            tuple[str, typing.SupportsInt | typing.SupportsIndex, typing.SupportsInt | typing.SupportsIndex]
        ],
        special_tokens: collections.abc.Sequence[
            tuple[str, typing.SupportsInt | typing.SupportsIndex, typing.SupportsInt | typing.SupportsIndex]
        ],
    ) -> None: ...
    @property
    def has_fragments(self) -> bool: ...
    @property
    def has_ties(self) -> bool: ...

class BPETrainer:
    """
    Counts the pieces of the texts it is fed, then trains on the counts.
    """
    def __init__(
        self, pattern: str | collections.abc.Sequence[str], specials: collections.abc.Sequence[str]
    ) -> None: ...
    def feed(self, texts: list) -> None:
        """
        Counts the pieces of some texts, on the threads of the pool.
        """
    def feed_buffer(self, buffer: typing_extensions.Buffer, progress: typing.Any) -> None:
        """
        The same for a contiguous buffer, such as a memory-mapped file; progress(bytes done, bytes) may be None.
        """
    def train(
        self, num_tokens: typing.SupportsInt | typing.SupportsIndex, progress: typing.Any
    ) -> tuple[list[bytes], list[tuple[int, int]]]:
        """
        Returns (tokens, merges) and discards the pieces.
        """
    @property
    def ends_at_line_ends(self) -> bool: ...
    @property
    def num_pieces(self) -> int: ...

class Model:
    """
    Turns pieces of text into ids: immutable, used by any number of threads.
    """
    def encode(self, parts: list) -> list:
        """
        Returns the ids of pieces of text; an id among them stays as it is.
        """
    def encode_array(self, parts: list) -> numpy.typing.NDArray[numpy.uint32]: ...

class WordLevel(Model):
    def __init__(
        self, tokens: collections.abc.Sequence[str], unknown: typing.SupportsInt | typing.SupportsIndex | None
    ) -> None: ...

class WordPiece(Model):
    def __init__(
        self,
        tokens: collections.abc.Sequence[str],
        unknown: typing.SupportsInt | typing.SupportsIndex | None,
        prefix: str,
        max_chars: typing.SupportsInt | typing.SupportsIndex,
    ) -> None: ...

class Unigram(Model):
    @staticmethod
    def sentencepiece(
        tokens: collections.abc.Sequence[str],
        scores: collections.abc.Sequence[typing.SupportsFloat | typing.SupportsIndex],
        unknown_score: typing.SupportsFloat | typing.SupportsIndex,
        unknown: typing.SupportsInt | typing.SupportsIndex,
        byte_ids: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex],
    ) -> Unigram:
        """
        By the rules of SentencePiece itself; byte_ids for all 256 bytes, or empty.
        """
    def __init__(
        self,
        tokens: collections.abc.Sequence[str],
        scores: collections.abc.Sequence[typing.SupportsFloat | typing.SupportsIndex],
        unknown: typing.SupportsInt | typing.SupportsIndex | None,
        byte_fallback: bool,
    ) -> None: ...

class GeneralBPE(Model):
    def __init__(
        self,
        tokens: collections.abc.Sequence[str],
        merges: collections.abc.Sequence[
            tuple[typing.SupportsInt | typing.SupportsIndex, typing.SupportsInt | typing.SupportsIndex]
        ],
        unknown: typing.SupportsInt | typing.SupportsIndex | None,
        prefix: str,
        suffix: str,
        fuse_unknown: bool,
        byte_fallback: bool,
        whole_piece_first: bool,
    ) -> None: ...

class AddedTokens:
    """
    Finds added tokens in a text: the leftmost, the longest of these.
    """
    def __init__(
        self,
        tokens: collections.abc.Sequence[
            tuple[str, typing.SupportsInt | typing.SupportsIndex, typing.SupportsInt | typing.SupportsIndex]
        ],
    ) -> None: ...
    def split(self, text: str) -> list:
        """
        Returns the stretches of a text, each with the id of the token that it is, or None.
        """

class SentencePieceNormalizer:
    """
    Brings text to the form of a SentencePiece model.
    """
    def __init__(
        self,
        charsmap: bytes,
        symbols: collections.abc.Sequence[str],
        add_dummy_prefix: bool,
        remove_extra_whitespaces: bool,
    ) -> None: ...
    def normalize(self, text: str) -> str: ...

class Regex:
    """
    A regular expression (csrc/tokenizer/split/regex.h): immutable.
    """
    def __init__(self, pattern: str, common: bool = False) -> None:
        """
        As Oniguruma reads it; common: only what Oniguruma, fancy-regex and PyPI's regex read alike.
        """
    def find_all(self, text: str) -> list:
        """
        Returns the matches themselves.
        """
    def matches(
        self, text: str, before: typing.SupportsInt | typing.SupportsIndex = 18446744073709551615
    ) -> list[tuple[int, int]]:
        """
        Returns where the matches begin and end, in characters, in order; they do not overlap. before: only of those that begin before this place.
        """

def activate(activation: Activation, x: Array) -> Array: ...
def activate_backward(activation: Activation, dout: Array, x: Array) -> Array: ...
def adamw(
    param: Array,
    grad: Array,
    m: Array,
    v: Array,
    lr: typing.SupportsFloat | typing.SupportsIndex,
    beta1: typing.SupportsFloat | typing.SupportsIndex,
    beta2: typing.SupportsFloat | typing.SupportsIndex,
    eps: typing.SupportsFloat | typing.SupportsIndex,
    weight_decay: typing.SupportsFloat | typing.SupportsIndex,
    step: typing.SupportsInt | typing.SupportsIndex,
    grad_scale: typing.SupportsFloat | typing.SupportsIndex,
    panels: collections.abc.Sequence[Panels] = [],
) -> None: ...
def add(a: Array, b: Array) -> Array: ...
def attention(
    q: Array,
    k: Array,
    v: Array,
    scale: typing.SupportsFloat | typing.SupportsIndex | None,
    causal: bool,
    lengths: Array | None = None,
    window: typing.SupportsInt | typing.SupportsIndex | None = None,
    starts: Array | None = None,
    softcap: typing.SupportsFloat | typing.SupportsIndex | None = None,
    cache: CacheBlocks | None = None,
) -> tuple[Array, Array]: ...
def attention_backward(
    dout: Array,
    q: Array,
    k: Array,
    v: Array,
    out: Array,
    lse: Array,
    scale: typing.SupportsFloat | typing.SupportsIndex | None,
    causal: bool,
    window: typing.SupportsInt | typing.SupportsIndex | None = None,
    starts: Array | None = None,
    softcap: typing.SupportsFloat | typing.SupportsIndex | None = None,
) -> typing.Annotated[list[Array], "FixedSize(3)"]: ...
def available_cpus() -> int: ...
def cache_append(
    cache: Array, x: Array, lengths: Array, blocks: Array | None = None, scale: Array | None = None
) -> None: ...
def cast(x: Array, dtype: DType) -> Array: ...
def check_pattern(stage: str) -> None:
    """
    Raises ValueError unless this is a pattern's name, or an expression that all engines read alike.
    """

def compiled_isas() -> list[tuple[str, bool]]: ...
def concat(parts: collections.abc.Sequence[Array], dim: typing.SupportsInt | typing.SupportsIndex) -> Array: ...
def cross_entropy(logits: Array, targets: Array) -> tuple[Array, Array]: ...
def cross_entropy_backward(dloss: Array, logits: Array, targets: Array, lse: Array) -> Array: ...
def cuda_info() -> dict:
    """
    Open and describe the device and its library. A one-line RuntimeError if there is no device.
    """

def current_isa() -> str: ...
def embedding(table: Array, ids: Array, dtype: DType) -> Array: ...
def embedding_backward(dout: Array, ids: Array, dtable: Array) -> None: ...
def empty(
    shape: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex], dtype: DType, device: str = "cpu"
) -> Array: ...
def exp(x: Array) -> Array: ...
def fast_bf16(device: str = "cpu") -> bool: ...
def from_dlpack(capsule: typing_extensions.CapsuleType) -> Array:
    """
    Import the same memory as an array.
    """

def from_numpy(array: numpy.ndarray, as_bf16: bool = False) -> Array: ...
def global_norm(tensors: collections.abc.Sequence[Array]) -> float: ...
def layer_norm(
    x: Array, weight: Array, bias: Array | None, eps: typing.SupportsFloat | typing.SupportsIndex
) -> tuple[Array, Array, Array]: ...
def linear(
    x: Array,
    weight: Panels,
    bias: Array | None = None,
    residual: Array | None = None,
    activation: Activation = Activation.none,
    keep_pre_activation: bool = False,
    out_dtype: DType | None = None,
) -> tuple[Array, Array | None]: ...
def linear_bias_grad(dy: Array, db: Array) -> None: ...
def linear_cross_entropy(x: Array, forward: Panels, targets: Array) -> Array: ...
def linear_cross_entropy_grad(
    x: Array, forward: Panels, backward: Panels, targets: Array, dloss: Array, weight_grad: bool = True
) -> tuple[Array, Array, Array | None]: ...
def linear_weight_grad(dy: Array, x: Array, dw: Array | None = None) -> Array: ...
def lion(
    param: Array,
    grad: Array,
    m: Array,
    lr: typing.SupportsFloat | typing.SupportsIndex,
    beta1: typing.SupportsFloat | typing.SupportsIndex,
    beta2: typing.SupportsFloat | typing.SupportsIndex,
    weight_decay: typing.SupportsFloat | typing.SupportsIndex,
    grad_scale: typing.SupportsFloat | typing.SupportsIndex,
    panels: collections.abc.Sequence[Panels] = [],
) -> None: ...
def log(x: Array) -> Array: ...
def log_one_minus(x: Array) -> Array: ...
def machine_peak(
    dtype: DType, pieces: typing.SupportsInt | typing.SupportsIndex, rounds: typing.SupportsInt | typing.SupportsIndex
) -> float: ...
def machine_read(x: Array) -> int: ...
def matmul(a: Array, b: Array, transpose_a: bool = False, transpose_b: bool = False) -> Array: ...
def memory_stats(device: str = "cpu") -> dict: ...
def momentum(
    grad: Array,
    m: Array,
    beta: typing.SupportsFloat | typing.SupportsIndex,
    nesterov: bool,
    grad_scale: typing.SupportsFloat | typing.SupportsIndex,
) -> Array: ...
def mul(a: Array, b: Array) -> Array: ...
def norm_backward(
    dout: Array,
    x: Array,
    weight: Array,
    mean: Array | None,
    rstd: Array,
    dweight: Array,
    dbias: Array | None,
    residual: Array | None = None,
) -> Array: ...
def num_threads() -> int: ...
def orthogonalised(x: Array, dtype: DType) -> Array: ...
def pack(
    weight: Array, dtype: DType, transposed: bool, reuse: Panels | None = None, paired: bool = False
) -> Panels: ...
def philox(
    key: typing.SupportsInt | typing.SupportsIndex,
    counter_lo: typing.SupportsInt | typing.SupportsIndex,
    counter_hi: typing.SupportsInt | typing.SupportsIndex,
) -> list[int]:
    """
    Philox4x32-10: four 32-bit words.
    """

def quantized_linear(
    x: Array,
    weight: QuantizedMatrix,
    bias: Array | None,
    residual: Array | None,
    activation: Activation,
    out_dtype: DType,
    source: ActivationSource = ActivationSource.rows,
    norm_weight: Array | None = None,
    eps: typing.SupportsFloat | typing.SupportsIndex = 0.0,
) -> Array: ...
def quantized_rows(weight: QuantizedMatrix, ids: Array, dtype: DType) -> Array: ...
def quantized_values(weight: QuantizedMatrix, dtype: DType) -> Array: ...
def read_ranks(data: bytes) -> typing.Any:
    """
    Returns the tokens and ids in the lines of a .tiktoken file, or None if there are other lines.
    """

def release_cached_memory() -> None: ...
def reset_peak_memory() -> None: ...
def rms_norm(x: Array, weight: Array, eps: typing.SupportsFloat | typing.SupportsIndex) -> tuple[Array, Array]: ...
def rope(
    x: Array,
    cos: Array,
    sin: Array,
    positions: Array | None,
    heads: typing.SupportsInt | typing.SupportsIndex | None,
    inverse: bool,
) -> Array: ...
def rope_append(
    qkv: Array,
    cos: Array,
    sin: Array,
    positions: Array,
    keys: Array,
    values: Array,
    lengths: Array,
    cache: CacheBlocks,
    dtype: DType,
) -> Array: ...
def sample(
    logits: Array,
    temperature: typing.SupportsFloat | typing.SupportsIndex | Array,
    top_k: typing.SupportsInt | typing.SupportsIndex | Array,
    top_p: typing.SupportsFloat | typing.SupportsIndex | Array,
    min_p: typing.SupportsFloat | typing.SupportsIndex | Array,
    seed: typing.SupportsInt | typing.SupportsIndex | Array,
    step: typing.SupportsInt | typing.SupportsIndex | Array,
    want_probs: bool = False,
    bias: typing.Annotated[collections.abc.Sequence[Array], "FixedSize(3)"] | None = None,
    history: Array | None = None,
    history_lengths: typing.SupportsInt | typing.SupportsIndex | Array = 0,
    prompt_lengths: typing.SupportsInt | typing.SupportsIndex | Array = 0,
    repetition_penalty: typing.SupportsFloat | typing.SupportsIndex | Array = 1.0,
    presence_penalty: typing.SupportsFloat | typing.SupportsIndex | Array = 0.0,
    frequency_penalty: typing.SupportsFloat | typing.SupportsIndex | Array = 0.0,
    typical_p: typing.SupportsFloat | typing.SupportsIndex | Array = 1.0,
    mask: Array | None = None,
) -> tuple[Array, Array, Array | None]: ...
def scale(x: Array, factor: typing.SupportsFloat | typing.SupportsIndex) -> Array: ...
def set_cuda_paths(library: str, blas: str) -> None: ...
def set_num_threads(n: typing.SupportsInt | typing.SupportsIndex) -> None: ...
def sgd(
    param: Array,
    grad: Array,
    m: Array | None,
    lr: typing.SupportsFloat | typing.SupportsIndex,
    momentum: typing.SupportsFloat | typing.SupportsIndex,
    nesterov: bool,
    weight_decay: typing.SupportsFloat | typing.SupportsIndex,
    grad_scale: typing.SupportsFloat | typing.SupportsIndex,
    panels: collections.abc.Sequence[Panels] = [],
) -> None: ...
def sigmoid(x: Array) -> Array: ...
def softcap(x: Array, cap: typing.SupportsFloat | typing.SupportsIndex) -> Array: ...
def softcap_backward(dout: Array, x: Array, cap: typing.SupportsFloat | typing.SupportsIndex) -> Array: ...
def softmax(x: Array) -> Array: ...
def softmax_backward(dout: Array, out: Array) -> Array: ...
def split(pattern: str | collections.abc.Sequence[str], text: typing.Any) -> list[bytes]:
    """
    Returns the pieces that a pattern cuts a text into.
    """

def sum(x: Array, factor: typing.SupportsFloat | typing.SupportsIndex = 1.0) -> Array: ...
def synchronize() -> None:
    """
    Wait until the device has finished all its work.
    """

def take(x: Array, ids: Array) -> Array: ...
def take_backward(dout: Array, ids: Array, rows: typing.SupportsInt | typing.SupportsIndex) -> Array: ...
def to_dlpack(array: Array) -> typing_extensions.CapsuleType:
    """
    Export the same memory as a capsule; waits for the GPU's work on it.
    """

def try_numpy(x: typing.Any) -> Array | None: ...
def unicode_class(code_point: typing.SupportsInt | typing.SupportsIndex) -> int:
    """
    The class bits of a code point, as in csrc/tokenizer/unicode/tables.h.
    """

def unspell(spellings: collections.abc.Sequence[str], alphabet: str) -> list[bytes]:
    """
    Returns the bytes that the characters of texts stand for in an alphabet; b"" if there are others.
    """

def weighted_sum(y: Array, weight: Array) -> Array: ...
def weighted_sum_backward(dout: Array, y: Array, weight: Array) -> tuple[Array, Array]: ...
def zeros(
    shape: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex], dtype: DType, device: str = "cpu"
) -> Array: ...
