"""How the names of `tokenizer.ggml.pre` in GGUF files cut text: llama.cpp's src/llama-vocab.cpp, and for the expressions
that it spells in other ways, because its engine knows no categories, those of the models' own tokenizer.json."""

from __future__ import annotations

from typing import NamedTuple

from llmcore.tokenizer.patterns import GPT2, REGEX
from llmcore.tokenizer.vocabulary import Pattern


class Pre(NamedTuple):
    """pattern: as of `Vocabulary`; whole_piece_first, too; begins: whether a text begins with bos where the file does not
    say."""

    pattern: Pattern
    whole_piece_first: bool = False
    begins: bool = False


_CONTRACTION = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_WORD = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_SIGNS = r" ?[^\s\p{L}\p{N}]+[\r\n]*"
_BLANKS = r"\s+(?!\S)|\s+"
_LINES = rf"\s*[\r\n]+|{_BLANKS}"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_CASES = rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+CONTRACTION|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*CONTRACTION"
_KANA = r"[一-龥぀-ゟ゠-ヿ]+"
_CODE = r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+"""
_SENTENCES = r" ?[^(\s|.,!?…。，、।۔،)]+"
_COMMAS = r"\p{P}$+<=>\^~|"  # what is cut off first by default

# Letters with a case, of the Unicode version of DeepSeek LLM's tokenizer.json: first and last of each range.
_SPANS = (
    "41-5A 61-7A B5 C0-D6 D8-F6 F8-1BA 1BC-1BF 1C4-293 295-2AF 370-373 376 377 37B-37D 37F 386 388-38A 38C "
    "38E-3A1 3A3-3F5 3F7-481 48A-52F 531-556 10A0-10C5 13A0-13F5 13F8-13FD 1C90-1CBA 1CBD-1CBF 1D00-1D2B "
    "1D6B-1D77 1D79-1D9A 1E00-1F15 1F18-1F1D 1F20-1F45 1F48-1F4D 1F50-1F57 1F59 1F5B 1F5D 1F5F-1F7D 1F80-1FB4 "
    "1FB6-1FBC 1FBE 1FC2-1FC4 1FC6-1FCC 1FD0-1FD3 1FD6-1FDB 1FE0-1FEC 1FF2-1FF4 1FF6-1FFC 2102 2107 210A-2113 "
    "2115 2119-211D 2124 2126 2128 212A-212D 212F-2134 2139 213C-213F 2145-2149 214E 2183 2184 2C00-2C7B "
    "2C7E-2CE4 2CEB-2CEE 2CF2 2CF3 A640-A66D A680-A69B A722-A76F A771-A787 A78B-A78E AB70-ABBF FB00-FB06 "
    "FB13-FB17 FF21-FF3A FF41-FF5A 10400-1044F 104B0-104D3 104D8-104FB 10C80-10CB2 10CC0-10CF2 118A0-118DF "
    "1E900-1E943"
)
_CASED = "".join("-".join(chr(int(code, 16)) for code in span.split("-")) for span in _SPANS.split())

_DEEPSEEK_LLM = (
    r"[\r\n]",
    rf"\s?[{_CASED}]+",
    r"\s?[!-/:-~！-／：-～‘-‟　-。]+",
    r"\s+(?![\s\S])",
    r"[一-龥ࠀ-一가-\x{D7FF}]+",
    r"\p{N}+",
)
_DEEPSEEK_CODER = (r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", r"[一-龥ࠀ-一가-\x{D7FF}]+", r"\p{N}")
_CHAMELEON = (
    r"<sentinel:[0-9]+>",
    r"(?:IMGIMG)(?:[A-I]{1,4})Z",
    r"[\t\n]|    |  ",
    r"\p{N}",
    r"[\p{P}!-/:-@\[-`{-~]",
    GPT2,
)
_JAIS2 = "|".join(rf"\s{{{n}}}(?!\S)" for n in (512, 256, 128, 64, 32, 16, 8, 4))
_JAIS2 = rf"{_CONTRACTION}|{_WORD}|\p{{N}}{{1,3}}|{_SIGNS}|\s*[\r\n]+|{_JAIS2}|\s{{1,2}}(?!\S)|\s"
_KIMI = r"&&[^\p{Han}]]"
_KIMI = (
    r"[\p{Han}]+|"
    + _CASES.replace("\\p{M}]", "\\p{M}" + _KIMI).replace("CONTRACTION", _CONTRACTION + "?")
    + rf"|\p{{N}}{{1,3}}|{_SIGNS}|{_LINES}"
)
_YOUTU = (
    r"[가-힣ㄱ-ㆎ]+|[！…“”‘’—：；，、-〿︰-﹏]+|[ㄅ-ㄯ]+|" + _KANA,
    _CASES.replace("CONTRACTION", _CONTRACTION + "?") + rf"|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_LINES}",
)
_TEKKEN = _CASES.replace("CONTRACTION", "") + rf"|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_LINES}"
_EXAONE_MOE = r"[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+"
_EXAONE_MOE = rf"{_CONTRACTION}|{_EXAONE_MOE}|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]?|\s*[\r\n]|{_BLANKS}"

_KINDS = (
    # The names first that files are written with.
    (Pre("llama3", True, True), "llama-bpe llama3 llama-v3 falcon3 falcon-h1 pixtral midm-2.0 lfm2 jina-v5-nano"),
    (Pre("llama3"), "dbrx smaug-bpe glm4 chatglm-bpe"),
    (Pre("gpt2"), "gpt-2 phi-2 olmo mpt jais trillion granite-docling exaone4 gigachat a.x-4.0 mellum modern-bert"),
    (Pre("gpt2"), "jina-es jina-de jina-v2-es jina-v2-de"),
    (Pre("smollm"), "smollm starcoder refact command-r codeshell exaone minerva-7b mellum2"),
    (Pre("qwen2"), "qwen2 stablelm2 deepseek-r1-qwen kormo f2llmv2 megrez hunyuan solar-open grok-2"),
    (Pre("qwen35"), "qwen35"),
    (Pre("deepseek"), "deepseek-v3 hunyuan-dense joyai-llm hy_v4"),
    (Pre("o200k"), "gpt-4o llama4 kanana2 talkie minimax-m2"),
    (Pre("o200k", True), "granite-embed-multi-97m"),
    (Pre(_DEEPSEEK_LLM), "deepseek-llm"),
    (Pre(_DEEPSEEK_CODER), "deepseek-coder"),
    (Pre((r"[\p{P}$+<=>\^~|`]+", GPT2, r"[0-9][0-9][0-9]")), "falcon"),
    (Pre((_SENTENCES,)), "poro-chat bloom gpt3-finnish"),
    (Pre((_SENTENCES, r"\p{N}")), "viking"),
    (Pre((_TEKKEN,), True, True), "tekken"),
    (Pre(_CHAMELEON, False, True), "chameleon"),
    (Pre((_JAIS2,)), "jais-2"),
    (Pre((_KIMI,)), "kimi-k2"),
    (Pre(_YOUTU, True), "youtu"),
    (
        Pre((rf"'(?i:[sdmt]|ll|ve|re)|{_WORD}|\p{{N}}|{_SIGNS}|\s*[\r\n]|{_BLANKS}",)),
        "bailingmoe bailingmoe2 llada-moe",
    ),
    (Pre((rf"{_CONTRACTION}|{_WORD}|\p{{N}}| ?[^\s\p{{L}}\p{{N}}\r\n]+|{_LINES}",)), "seed-coder"),
    (Pre((rf"{_WORD}|\p{{N}}|{_SIGNS}|{_LINES}",)), "ufakzeka"),
    (Pre((r"[^\n]+|[\n]+", REGEX["qwen2"])), "laguna"),
    (Pre((_EXAONE_MOE,)), "exaone-moe"),
    (Pre((r"\p{N}{1,3}", rf"{_CONTRACTION}|{_WORD}|\p{{N}}+|{_SIGNS}|{_LINES}"), True), "minicpm5"),
    (Pre((r"\p{N}{1,3}", _KANA, rf"{_CODE}|[\r\n]|{_BLANKS}", r"\p{N}")), "spark2_5"),
    (Pre((rf"[{_COMMAS}]+", GPT2, r"\p{N}+", r"[0-9][0-9][0-9]")), "default"),
)
PRE = {name: pre for pre, names in _KINDS for name in names.split()}
# Those of which llama.cpp knows more than their names say: what is not done here.
REFUSED = {
    **dict.fromkeys(("superbpe", "tiny_aya", "cohere2moe", "afmoe"), "digits counted from their end"),
    **dict.fromkeys(("gemma4", "granite-embed-multi-311m", "sarvam-moe", "whitespace"), "BPE of characters"),
    **dict.fromkeys(("jina-v1-en", "jina-v2-code", "roberta-bpe"), "a separator after every text"),
}
