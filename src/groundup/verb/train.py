"""The train verb: its config, the checks between groups, and where its run lives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import groundup.callback.config
import groundup.data.config
import groundup.launcher.config
import groundup.model.config
import groundup.objective.config
import groundup.optimizer.config
import groundup.schedule.config
import groundup.strategy.config
import groundup.strategy.loose_config
import groundup.strategy.mesh_config
import groundup.strategy.zero_config
import groundup.sweep.config
import groundup.trainer.config
import groundup.trainer.logger_config  # these register the groups
from groundup.callback import decisions
from groundup.callback.mirror import mirror_of
from groundup.core import checkpoint, ranks
from groundup.core.bits import OF_TEXT, told
from groundup.core.config import MISSING, fingerprint, identity_of, option, schema, to_dict
from groundup.core.config.verb import command
from groundup.core.errors import ConfigError
from groundup.core.files import make_folder
from groundup.core.memory import keep_freed_memory
from groundup.launcher.entry import enter
from groundup.launcher.job import Job
from groundup.launcher.processes import die_with_parent
from groundup.shard.manifest import Manifest
from groundup.trainer import rollback
from groundup.trainer import segments as segment_list
from groundup.trainer.changes import Change, Turn, apply
from groundup.trainer.console import say
from groundup.trainer.course import Course
from groundup.trainer.lock import only_one
from groundup.trainer.segments import Segment
from groundup.verb import examples, resuming, room, text

if TYPE_CHECKING:
    from groundup.tokenizer.protocol import Tokenizer

TOKENS = 3_000_000
"""What a run is trained on where nothing says how long it is."""


@schema("verb", "train")
class Train:
    """Train a model on prepared shards: the same command again goes on where it stopped."""

    name: str = option("nano", "the run's name; its folder is runs/<name>/<hash of the config>", identity=False)
    seed: int = option(0, "of initial weights, data order and dropout", at_least=0)
    tokens: int | None = option(None, f"tokens to train on; null: as data.epochs says, else {TOKENS:,}", at_least=1)
    model: Any = option(MISSING, "the network")
    data: Any = option(MISSING, "the shards and how they become steps")
    objective: Any = option(MISSING, "what is minimised")
    optimizer: Any = option(MISSING, "the update rule")
    schedule: Any = option(MISSING, "the learning rate over the run")
    changes: list[Change] = option([], "planned changes: [{tokens: N, set: {optimizer.rate: 0.001}, undo: [...]}]")
    strategy: Any = option(MISSING, "how the net is spread over devices", identity=False)
    launcher: Any = option(MISSING, "what starts the processes", identity=False)
    trainer: Any = option(MISSING, "device, precision, pace", identity=False)
    callback: dict[str, Any] = option({}, "what watches the run", identity=False)
    logger: dict[str, Any] = option({}, "where metrics go", identity=False)
    sweep: Any = option(None, "a search over other options, with --multirun", identity=False)
    runs: str = option("runs", "the folder of all runs", identity=False)
    resume: str | None = option(
        None, "a checkpoint folder to go on from, instead of the newest good one", identity=False
    )
    fresh: bool = option(False, "start over; what is there is kept under another name", identity=False)
    extend_tokens: int | None = option(None, "go on for so many tokens beyond `tokens`", identity=False, at_least=1)
    stop_steps: int | None = option(None, "stop this time after so many steps of the run", identity=False, at_least=1)
    plugins: list[str] = option([], "modules to import first, which register components of their own", identity=False)

    def check(self) -> None:
        """Find what cannot work before anything is written, and fill in what follows from the data.

        Raises:
            UserError: with the key or file and the remedy.
        """
        if self.sweep is not None:
            raise ConfigError(f"sweep.study={self.sweep.study}", "is a search, not a run", "add --multirun")
        self._settle_launcher()
        self._begin()
        manifest = self.data.check()
        if self.data.kind == "examples":
            examples.fill_in(self.data, self.objective, manifest)
        self._settle_length(manifest)
        self._check_beginning(manifest)
        self._check_objective(manifest, self.objective)
        self.check_segments(self.plan())
        for name, callback in self.callback.items():
            if hasattr(callback, "check"):
                try:
                    callback.check(self.trainer.validate_every)
                except ConfigError as error:
                    raise error.under(f"callback.{name}") from None
        mirror_of(self.callback, self.folder())
        room.check(self.runs, self.folder(), self.model.parameters()["total"])
        resuming.check(self)
        keep_freed_memory()  # before torch is imported
        from groundup.trainer.device import device_of

        accelerator, _ = device_of(self.trainer)
        if accelerator == "cpu" and getattr(self.model, "kernel", "sdpa") == "flex":
            raise ConfigError("model.kernel=flex", "computes no gradients on a CPU", "set model.kernel=sdpa")

    def check_segments(self, segments: Sequence[Segment]) -> None:
        """Find what cannot work in any of the configs that the run comes to.

        Raises:
            ConfigError: with the key and the remedy.
        """
        manifest = Manifest.read(self.data.path)
        for segment in segments:
            effective = apply(self, segment.set)
            if effective.data != self.data:
                effective.data.check()
            self._check_objective(manifest, effective.objective)
            self._check_batch_norm(effective.data)
            self._check_layout(effective)
            if getattr(self.model, "mup_base", None) is not None and effective.optimizer.kind == "sgd":
                raise ConfigError(
                    "optimizer=sgd",
                    "moves weights otherwise than model.mup_base allows for",
                    "choose adamw, lion or adafactor",
                )
            if effective.optimizer.kind != self.optimizer.kind and not getattr(self.strategy, "takes_over", True):
                what = f"cannot take over from {self.optimizer.kind} with strategy={self.strategy.kind}"
                raise ConfigError(f"changes: optimizer={effective.optimizer.kind}", what, "leave it, or choose fsdp")
            try:
                effective.schedule.check(segments[-1].last)
            except ConfigError as error:
                raise error.under("schedule") from None

    def _settle_launcher(self) -> None:
        """What starts processes must know how many, before anything is laid out over them."""
        if not self.launcher.starts():
            ranks.local_world()  # what started this one must have told it its place
            return
        keep_freed_memory()
        from groundup.trainer.device import device_of, devices_of

        try:
            self.launcher.settle(devices_of(device_of(self.trainer)[0]))
        except ConfigError as error:
            raise error.under("launcher") from None

    def _settle_length(self, manifest: Manifest) -> None:
        """A run's length is said once: by its tokens or by how often examples are read."""
        said = self.data.length(manifest) if self.data.kind == "examples" else None
        if said is not None and self.tokens not in (None, said):
            raise ConfigError(
                f"tokens={self.tokens}",
                f"is not what data.epochs={self.data.epochs:g} says, which is {said}",
                "leave it out, or set data.epochs=null",
            )
        self.tokens = said or self.tokens or TOKENS

    def _check_layout(self, effective: Any) -> None:
        """The strategy must be able to spread this network and batch over the ranks that were or will be started."""
        data = effective.data
        reason = getattr(self.strategy, "needs_rows", None)
        if data.micro_batch == groundup.data.config.AUTO and reason is not None:
            raise ConfigError(
                f"data.micro_batch={data.micro_batch}",
                f"cannot be found with strategy={self.strategy.kind}: {reason}",
                "set it to a number",
            )
        if hasattr(self.strategy, "check"):  # a plugin's strategy need not have any, nor what is asked for below
            self.strategy.check(self.launcher.world(), self.model, data)
        if hasattr(self.strategy, "check_optimizer"):
            self.strategy.check_optimizer(effective.optimizer.kind)
        self._check_steering(effective.optimizer)
        if self.trainer.compile and getattr(self.strategy, "splits_backward", False):
            raise ConfigError(
                f"strategy.schedule={self.strategy.schedule}",
                "takes gradients apart, which a compiled network does not allow",
                "set trainer.compile=false, or strategy.schedule=1f1b",
            )
        if self.trainer.compile and not getattr(self.strategy, "compiles", True):
            raise ConfigError(
                f"strategy.stage={self.strategy.stage}",
                "gathers weights module by module, which a compiled network does not allow",
                "set trainer.compile=false, or strategy=fsdp",
            )
        for name, callback in self.callback.items():
            if getattr(callback, "reads_parameters", False) and not getattr(self.strategy, "keeps_parameters", True):
                raise ConfigError(
                    f"callback.{name}",
                    f"reads parameters, which strategy={self.strategy.kind} keeps in a form of its own",
                    f"leave it out: ~callback.{name}",
                )
            if getattr(callback, "asks_nets", False) and not getattr(self.strategy, "answers", True):
                raise ConfigError(
                    f"callback.{name}",
                    f"asks the whole network, of which strategy={self.strategy.kind} leaves a part on each rank",
                    f"leave it out: ~callback.{name}",
                )

    def _check_steering(self, optimizer: Any) -> None:
        """Who may refuse steps and send the run back must be able to, by every measure that it may take."""
        for name, callback in self.callback.items():
            if not getattr(callback, "steers", False):
                continue
            if not getattr(self.strategy, "steerable", True):
                raise ConfigError(
                    f"callback.{name}",
                    f"needs steps that all ranks do alike, which those of strategy={self.strategy.kind} do not",
                    f"leave it out: ~callback.{name}",
                )
            escalation = getattr(callback, "escalation", ())
            rates = getattr(optimizer, "rates", ("rate",))
            unable = [f"optimizer={optimizer.kind}"] * (not all(hasattr(optimizer, rate) for rate in rates))
            if "rate" in escalation and unable:
                raise ConfigError(f"callback.{name}.escalation", f"{unable[0]} has no rate", "take rate out of it")
            if "embedding" in escalation and not hasattr(self.objective, "embedding_gradient"):
                what = f"objective={self.objective.kind} has no embedding_gradient"
                raise ConfigError(f"callback.{name}.escalation", what, "take embedding out of it")

    def _check_batch_norm(self, data: Any) -> None:
        """Statistics of a micro-batch are those of the step only where there is one, on one rank."""
        if getattr(self.model, "norm", None) == "batch" and (data.samples > data.rows or self.launcher.world() > 1):
            raise ConfigError(
                "model.norm=batch",
                f"depends on how a step of {data.samples} windows is cut into micro-batches and ranks",
                f"set data.micro_batch={data.samples} on one rank, or model.norm=layer",
            )

    def _check_objective(self, manifest: Manifest, objective: Any) -> None:
        """The network must suit the objective, with room for its ids and positions; what is open is filled in."""
        extra = getattr(objective, "extra_ids", 0)  # a plugin's need not have any, nor what is asked for below
        vocabulary = manifest.tokenizer.vocabulary + extra
        if self.model.vocabulary is None:
            self.model.vocabulary = vocabulary
        elif self._begun_with is not None and manifest.tokenizer.vocabulary <= self.model.vocabulary < vocabulary:
            spare = self.model.vocabulary - manifest.tokenizer.vocabulary
            raise ConfigError(
                f"model.init_from={self._begun_with}",
                f"has {spare} ids behind its tokenizer's, and objective={objective.kind} needs {extra} more",
                objective.without_more(self._tokenizer()),
            )
        elif self.model.vocabulary < vocabulary:
            more = f" and objective={objective.kind} {extra} more" if extra else ""
            raise ConfigError(
                f"model.vocabulary={self.model.vocabulary}",
                f"the shards in {self.data.path} need {manifest.tokenizer.vocabulary}{more}",
                f"leave it out or set it to at least {vocabulary}",
            )
        context = self.data.context
        if hasattr(objective, "widths"):
            context = max(context, *objective.widths(self.model, context))
        if self.model.context is None:
            self.model.context = context
        elif self.model.context < context:
            made = "" if context == self.data.context else f", of which objective={objective.kind} makes {context}"
            raise ConfigError(
                f"data.context={self.data.context}{made}",
                f"is longer than model.context={self.model.context}",
                "shorten data.context or lengthen model.context",
            )
        start = getattr(self.model, "start", None)
        if start is not None and start >= self.model.vocabulary:
            raise ConfigError(
                f"model.start={start}",
                f"is no id of a network with model.vocabulary={self.model.vocabulary}",
                "give a smaller one, or null for the end of a document",
            )
        if hasattr(objective, "check"):
            objective.check(self.model)
        if getattr(objective, "named_ids", {}):
            objective.check_ids(self._tokenizer())

    def _tokenizer(self) -> Tokenizer:
        """The tokenizer of the data."""
        from groundup.data.opening import storage_of, tokenizer_folder
        from groundup.tokenizer.load import load

        return load(tokenizer_folder(storage_of(self.data)))

    def _begin(self) -> None:
        """Take the shape of the network whose weights are begun with, and prepare a text that stands for data."""
        if self._begun_with is not None:
            from groundup.interop.begin import beginning

            self.model = beginning(self.model, Path(self.runs) / "imported")
        examples.check_fit(self.data, self.objective)
        if not text.is_text(self.data.path):
            return
        if self.data.kind == "examples":
            self.data.path = str(examples.prepared(self.data, self.objective.task, self._begun_with))
        else:
            self.data.path = str(text.prepared(self.data.path, self._begun_with))

    @property
    def _begun_with(self) -> str | None:
        """The folder of the first weights; a plugin's network need not know of such."""
        found: str | None = getattr(self.model, "init_from", None)
        return found

    def _check_beginning(self, manifest: Manifest) -> None:
        """Ids must mean what they meant to the weights."""
        if self._begun_with is None:
            return
        from groundup.tokenizer.load import load

        folder = Path(self._begun_with) / "tokenizer"
        if load(folder).digest != manifest.tokenizer.digest:
            raise ConfigError(
                f"data.path={self.data.path}",
                "was prepared with another tokenizer than that of the weights in model.init_from",
                f"prepare it with tokenizer=pretrained tokenizer.path={folder}",
            )

    def course(self) -> Course:
        """What the run's segments follow from: planned changes, and what `extend_tokens` adds."""
        turns = [
            Turn(change.tokens, change.set, tuple(change.undo), f"change at {change.tokens} tokens")
            for change in self.changes
        ]
        if turns != sorted(turns, key=lambda turn: turn.tokens):
            raise ConfigError("changes", "are not in the order of their tokens", "sort them")
        tokens = self.tokens or TOKENS
        if self.extend_tokens:
            longer = {"tokens": tokens + self.extend_tokens}
            turns.append(Turn(tokens, longer, why=f"extended by {self.extend_tokens} tokens"))
            tokens += self.extend_tokens
        return Course(self, turns, tokens)

    def plan(self) -> list[Segment]:
        """The run's segments, unless something is decided on its way."""
        return self.course().segments()

    def folder(self) -> Path:
        """Where the run lives: a pure function of what defines its mathematics, so all ranks agree."""
        manifest = Manifest.read(self.data.path)
        data = [asdict(manifest.tokenizer), {split: to_dict(held) for split, held in manifest.splits.items()}]
        spread = self.strategy.mathematics()
        identity = [identity_of(self), data, *([] if spread is None else [spread])]
        return Path(self.runs) / self.name / fingerprint(identity)

    def run(self) -> None:
        """Train, or go on training; then write the report. Or have other processes do so."""
        folder = self.folder()
        if self.fresh and ranks.rank() == 0 and folder.exists():
            with only_one(folder):  # never from under a process that trains in it
                room.set_aside(folder)
        launcher, cordon = self.launcher.build(), Path(self.launcher.cordon or self.runs)
        if launcher is not None:
            once = ["fresh=false"] if self.fresh else []  # what is launched again goes on from its own checkpoints
            job = Job(self.name, [*command(), *once], folder / "logs", cordon, lambda: checkpoint.reached(folder))
            launcher.launch(job)
            return
        if ranks.under_torchrun():  # else one whose agent was killed would train on where its place is given away
            die_with_parent()
        enter(self.launcher, folder, cordon)
        plan = resuming.plan(self)
        source = None if self.fresh and not self.resume else self._source(folder, plan)
        from groundup.trainer import environment
        from groundup.trainer.report import write_run_report
        from groundup.trainer.run import train

        report = folder / "report.md"
        if source is not None:
            say(f"resuming from {source}")
            if checkpoint.step_of(source) >= plan[-1].last.steps and report.exists() and not self.resume:
                say(f"complete: {report}")
                return
        if ranks.rank() == 0:
            make_folder(folder)
        environment.keep_start(folder, self, 0 if source is None else checkpoint.step_of(source))
        if ranks.rank() == 0:
            segment_list.write(folder, to_dict(self), plan)
        say(f"run folder {folder}")
        if self.data.kind == "examples":
            examples.warn(Manifest.read(self.data.path), self.data.path)
        outcome = train(self, folder, plan, source)
        if outcome.held_out and ranks.rank() == 0:
            say(f"finished weights: {told(outcome.held_out, getattr(self.objective, 'unit', OF_TEXT))}")
            write_run_report(folder, self, outcome)
            say(f"report: {folder / 'report.html'}")

    def _source(self, folder: Path, plan: list[Segment]) -> Path | None:
        if self.resume:
            checkpoint.verify(Path(self.resume))
            resuming.check(self)
            return Path(self.resume)
        if decisions.attempts(decisions.read(folder)):
            return checkpoint.newest(folder, say, lambda path: rollback.lies_on(plan, path))
        return checkpoint.newest(folder, say)
