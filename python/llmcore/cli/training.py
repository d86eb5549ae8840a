"""The commands of the training stages: `llmcore pretrain`, `sft`, `dpo`, `kto`, `reward`, `ppo` and `grpo`."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from llmcore import terminal, train
from llmcore.cli import options
from llmcore.cli.flags import Config, config_flags
from llmcore.cli.preview import show
from llmcore.train.config import (
    DPOConfig,
    FinetuneConfig,
    GRPOConfig,
    KTOConfig,
    LoopConfig,
    PPOConfig,
    PretrainConfig,
    RewardConfig,
    SFTConfig,
)

Resume = Annotated[
    bool, typer.Option("--resume", help="Continue the run in --out where it stopped, with its original options.")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the run that is in --out.")]
Preview = Annotated[
    bool, typer.Option("--preview", help="Show the first rows with what is learned of them, count all, and exit.")
]


@dataclass(frozen=True)
class Stage:
    """A training stage on the command line. next_step: the command to suggest afterwards."""

    name: str
    config: type[LoopConfig]
    short_help: str
    help: str
    examples: str
    next_step: str


_PAIRS = 'Rows of JSONL, JSON, CSV or parquet: {"prompt": "...", "chosen": "...", "rejected": "..."}'
_REWARDS = """Rows of JSONL, JSON, CSV or parquet: {"prompt": "..."}, plus the fields that the reward functions need: "answer" for
arithmetic, "words" for length. A reward of your own is a function in a file:
def reward(prompts, completions, **columns): return [...]"""

STAGES = (
    Stage(
        "pretrain",
        PretrainConfig,
        "Train a language model on text.",
        "Train a language model on text.\n\nA run that was stopped or killed continues bit for bit with --resume.",
        "Example: llmcore pretrain --data book.txt --out run --steps 500 --layers 4\n"
        "Resume:  llmcore pretrain --out run --resume\n"
        "Several: mpiexec -n 2 llmcore pretrain --accumulation 2 --batch-size 8",
        'llmcore next "The" --temperature 0.2 0.7 1.5',
    ),
    Stage(
        "sft",
        SFTConfig,
        "Teach a model to answer.",
        """Fine-tune a model on conversations, or on prompts with completions (supervised fine-tuning).

Rows of JSONL, JSON, CSV or parquet: {"messages": [{"role": "user", "content": "..."}, {"role": "assistant", ...}]}, or
{"prompt": "...", "completion": "..."}, or {"text": "..."}; also those of ShareGPT, Alpaca, OpenAI and other common data
sets, and any with --columns prompt=question,completion=answer.""",
        "Example: llmcore sft --model run --data chats.jsonl --out chat --epochs 2\n"
        "         llmcore sft --model smollm2-135m-instruct --data python-qa --preview",
        "llmcore chat",
    ),
    Stage(
        "dpo",
        DPOConfig,
        "Teach a model to prefer better answers.",
        "Train a model on pairs of answers, one of which is preferred: DPO and related losses.\n\n" + _PAIRS + ".",
        "Example: llmcore dpo --model chat --data pairs.jsonl --out preferred --lr 5e-6",
        "llmcore chat",
    ),
    Stage(
        "kto",
        KTOConfig,
        "Teach a model from answers labelled good or bad.",
        """Train a model on single answers, each labelled good or bad: KTO.

Rows of JSONL, JSON, CSV or parquet: {"prompt": "...", "completion": "...", "label": true}, or pairs as for dpo.""",
        "Example: llmcore kto --model chat --data answers.jsonl --lr 5e-6",
        "llmcore chat",
    ),
    Stage(
        "reward",
        RewardConfig,
        "Train a reward model, which judges answers.",
        "Train a reward model from pairs of answers, one of which is preferred.\n\n"
        + _PAIRS
        + ', optionally a "margin".',
        "Example: llmcore reward --model chat --data pairs.jsonl --out judge",
        "llmcore ppo --rewards {out}",
    ),
    Stage(
        "ppo",
        PPOConfig,
        "Reward a model for its answers, with a value head.",
        "Reward a model for its answers, token by token, against the reward that its value head predicts: PPO.\n\n"
        + _REWARDS,
        "Example: llmcore ppo --model chat --data p.jsonl --rewards judge\n"
        "         llmcore ppo --model chat --data p.jsonl --rewards my.py:reward",
        "llmcore chat",
    ),
    Stage(
        "grpo",
        GRPOConfig,
        "Reward a model for its answers, within groups.",
        "Reward a model for its answers, each compared with the others to the same prompt: GRPO and related losses.\n\n"
        + _REWARDS,
        "Example: llmcore grpo --model chat --data arithmetic --rewards arithmetic\n"
        "         llmcore grpo --model chat --data p.jsonl --rewards mine.py:reward",
        "llmcore chat",
    ),
)


def commands(*names: str) -> list[tuple[str, Callable, str]]:
    """Return name, function and short help of the commands of these stages."""
    return [(stage.name, _command(stage), stage.short_help) for stage in STAGES if stage.name in names]


def _command(stage: Stage) -> Callable:
    def command(
        given: dict,
        config: Config = None,
        preview: Preview = False,
        resume: Resume = False,
        overwrite: Overwrite = False,
        quiet: options.Quiet = False,
    ) -> None:
        settings = _settings(stage, given, config, resume)
        if preview:
            return show(stage.name, settings)
        return _train(stage, settings, resume, overwrite, quiet)

    command.__name__, command.__doc__ = stage.name, f"{stage.help}\n\n\b\n{stage.examples}"
    if not issubclass(stage.config, FinetuneConfig):
        own = inspect.signature(command)
        kept = [p for p in own.parameters.values() if p.name != "preview"]
        command.__signature__ = own.replace(parameters=kept)  # type: ignore[attr-defined]
    return config_flags(stage.config)(command)


def _settings(stage: Stage, given: dict, config: Path | None, resume: bool) -> Any:
    """Return the configuration that the flags, a YAML file and the run to resume add up to."""
    values = {} if config is None else stage.config.read_yaml(config)
    values |= given
    if resume:
        from llmcore.train.resume import stored_config

        out = values.get("out", stage.config().out)
        values = stored_config(out, stage.name) | values | {"out": out}
    return stage.config.from_mapping(values)


def _train(stage: Stage, config: LoopConfig, resume: bool, overwrite: bool, quiet: bool) -> None:
    """Train, and say what was saved and what to do next."""
    from llmcore.models import adapters
    from llmcore.train.distributed.group import process_group

    report = train.Report() if quiet else train.TerminalReport()
    trained = getattr(train, stage.name)(config, resume=resume, report=report, overwrite=overwrite)
    lm = getattr(trained, "lm", trained)  # a reward model holds a language model
    if lm is trained:
        options.remember_model(Path(config.out))
    if quiet or process_group().rank:
        return
    what, n, of = "a model", lm.num_parameters, ""
    if lm is trained and adapters.has_lora(lm.model):  # a reward model is saved whole
        n, of = sum(p.size for p in lm.model.trainable().values()), f" (of {config.model})"  # type: ignore[attr-defined]
        what = "an adapter"
    out = terminal.console()
    out.print(f"saved {what} of {n / 1e6:.2f}M parameters{of} in {config.out}", markup=False, soft_wrap=True)
    out.print(f"next: {stage.next_step.format(out=config.out)}", markup=False)
