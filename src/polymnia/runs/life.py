"""The life of one run: tasks in order, a checkpoint every so many steps, a row of scores after each task.

Whatever kills it, the same command goes on from the last checkpoint to the bit-identical result.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from polymnia.continual.chain import keeps_towers, sequential
from polymnia.continual.objective import Objective
from polymnia.data.collection import Collection
from polymnia.data.loader import Clean, Interleaved, Loader, StepBatches
from polymnia.embed.cache import signature
from polymnia.embed.embedder import Embedder
from polymnia.recipe import Recipe, TaskConfig
from polymnia.runs import anchors, assemble, machine, record, routing
from polymnia.runs.adapters import keep_learned
from polymnia.runs.score import Scorebook, validation_score
from polymnia.runs.signals import on_sigterm
from polymnia.runs.stages import run_stages
from polymnia.runs.weights import refuse_others, save_encoder, save_towers, without
from polymnia.train import checkpoint
from polymnia.train.settings import TrainConfig
from polymnia.train.trainer import Step, Trainer, validation_loss
from polymnia.types import Task, UserError

OnStep = Callable[[str, int, int], None]  # what, steps done, of how many
Behind = Callable[["Session", record.Log], dict[str, Any]]


class Interrupted(SystemExit):
    """SIGTERM: everything is saved; the same command goes on. Exit code 75 ("try again")."""

    def __init__(self) -> None:
        super().__init__(75)


@dataclass(frozen=True)
class Run:
    """A finished run. ``matrix`` is what matrix.json holds."""

    folder: Path
    recipe: Recipe
    matrix: Mapping[str, Any]

    def summary(self, head: str = "latest") -> dict[str, float | None]:
        """The continual numbers: average, forgetting, ... in percent."""
        return dict(self.matrix["summary"][head])


class Session:
    """One run from its recipe: build everything, then ``go``.

    ``behind``: what a run that goes on from a shorter one begins with (see ``polymnia.runs.extend``): it scores what
    was learned before, and gives the state to go on from.
    """

    def __init__(self, recipe: Recipe, on_step: OnStep = lambda *_: None, behind: Behind | None = None):
        machine.settle(recipe.threads)
        torch.backends.cudnn.deterministic = True  # else a convolution's gradient differs from run to run on a GPU
        self.recipe, self.on_step = recipe, on_step
        self.folder = recipe.folder
        assemble.find_device(recipe.device)  # before anything that takes time
        curriculum = assemble.read_tasks(recipe)
        self.towers = assemble.build_towers(recipe)
        specs = {m: t.spec for m, t in self.towers.items()}
        collection = Collection.open(curriculum.items, specs, recipe.cache / "media", self._decoding)
        self.curriculum = assemble.drop_broken(recipe, curriculum, collection.failed)
        self.dropped = assemble.dropped(curriculum, collection.failed)
        if curriculum.absent:
            on_step(f"{curriculum.absent:,} missing clips left out: see meta.json", 0, 0)
        if collection.failed:
            on_step(f"{len(collection.failed)} broken items left out: see meta.json", 0, 0)
        self.fingerprint = assemble.fingerprint(curriculum)
        self.stage_keys = run_stages(recipe, self.curriculum.stages, self.towers, collection, self._stage_step)
        still = [m for m, part in recipe.towers.items() if part.config.frozen]
        self.source = collection
        shown, self.collection = assemble.cached_towers(self.towers, still, self.curriculum.items, collection, recipe)
        tasks = self.curriculum.tasks
        pairs = tuple(dict.fromkeys(p for t, _ in tasks for p in t.pairs))
        names = tuple(t.name for t, _ in tasks)
        self.model, self.method, self.objective = assemble.build_learner(recipe, shown, pairs, names)
        # Towers that only prompts steer stay as they came: no checkpoint and no encoder holds them again.
        self.unmoved = self.model.learn if keeps_towers(recipe.method) else frozenset()
        if self.method.asks:
            assemble.ask_towers(self.towers, shown, self.curriculum.items, self.collection, recipe)
        self.book = Scorebook(recipe, self.curriculum, {m: t.class_names for m, t in self.towers.items()})
        self.sequential = sequential(recipe.method)
        self.lessons = self._lessons()
        self.trainable = self._count_trainable()
        self.stop, self.behind = False, behind
        self.extends: dict[str, Any] | None = None  # for meta.json: the shorter run, and names of its encoders

    def _decoding(self, done: int, total: int) -> None:
        self.on_step("decoding", done, total)

    def _stage_step(self, name: str, step: Step) -> None:
        self.on_step(f"stage {name}", step.number, step.total)

    def _lessons(self) -> list[tuple[Task, TaskConfig, StepBatches, TrainConfig, int]]:
        """What is learned one after another: task, config, batches, settings, and tasks finished afterwards."""
        loaders: list[Loader] = []
        for task, cfg in self.curriculum.tasks:
            loaders.append(
                assemble.build_loader(self.recipe, task, cfg, self.collection, self.model, self.recipe.seed)
            )
        tasks = self.curriculum.tasks
        if self.sequential:
            return [(t, c, b, c.train, t.index) for (t, c), b in zip(tasks, loaders, strict=True)]
        steps = sum(c.train.total(len(b)) for (_, c), b in zip(tasks, loaders, strict=True))
        every = tuple(i for t, _ in tasks for i in t.train)
        pairs = tuple(dict.fromkeys(p for t, _ in tasks for p in t.pairs))
        joint = Task("joint", 1, every, (), (), pairs)
        settings = tasks[0][1].train.model_copy(update={"steps": steps, "epochs": None})
        return [(joint, tasks[0][1], Interleaved(loaders, self.recipe.seed), settings, len(tasks))]

    def _count_trainable(self) -> int:
        """Parameters that the first task trains, the method's own included."""
        if not self.steps:  # nothing is learned: there is only something to watch, or the untouched base is scored
            return 0
        before = {k: v.clone() for k, v in self.method.state_dict().items()}
        self.method.begin_task(self.model, self.lessons[0][0])
        count = sum(p.numel() for m in (self.model, self.method) for p in m.parameters() if p.requires_grad)
        self.method.load_state_dict(before)  # it was only asked: nothing has begun
        return count

    @property
    def steps(self) -> int:
        """Training steps of the whole run."""
        return sum(s.total(len(b)) for _, _, b, s, _ in self.lessons)

    def go(self) -> Run:
        """Train what is not trained yet.

        Raises Interrupted after SIGTERM, with everything saved; UserError while another process trains this run.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot write to out={self.recipe.out}: {error}") from error
        try:
            with FileLock(self.folder / ".lock", timeout=0):  # the system lets go of it when a process dies
                return self._go()
        except Timeout:
            raise UserError(f"another process is at work in {self.folder}; wait for it") from None

    def _go(self) -> Run:
        log = record.Log(self.folder / "log.jsonl")
        state = self._resume(log)
        record.begin(self)
        started = time.monotonic() - state["seconds"]
        with on_sigterm(self._ask_to_stop):
            if not self.book.rows:
                record.warn_of_broken(log, self.dropped)
                if self.behind is None:
                    self.score(0, log)
                else:
                    state = self.behind(self, log) | {"trainer": None}
                    started -= state["seconds"]
                    self._take_over(state, log, started)
            for number, lesson in enumerate(self.lessons):
                if number < state["lesson"]:
                    continue
                resumed = state["trainer"] if number == state["lesson"] else None
                self._learn(number, lesson, resumed, log, started)
        record.finish(self, time.monotonic() - started)
        if self.stop:  # asked at the very end: this run is finished, but nothing may be begun behind it
            raise Interrupted
        return Run(self.folder, self.recipe, self.book.matrices())

    def _learn(self, number: int, lesson: tuple, resumed: dict | None, log: record.Log, started: float) -> None:
        task, cfg, batches, settings, after = lesson
        self.method.begin_task(self.model, task)
        if resumed is not None:
            self._load_learner(resumed)
        elif number:  # behind begin_task: the teacher's head is the old one
            self.model.renew_heads(task.index)
        own = cfg.objective if self.sequential else None
        objective = self.objective if own is None else Objective(own, self.objective.pairs)
        trainer = Trainer(
            self.model,
            self.method,
            objective,
            batches,
            settings,
            (self.recipe.seed, task.index),
            self._validator(task, objective, settings.watch),
            self.recipe.workers,
        )
        if resumed is not None:
            trainer.load_state_dict(resumed["trainer"])
        begun = time.monotonic()
        offset = sum(s.total(len(b)) for _, _, b, s, _ in self.lessons[:number])
        for step in trainer.steps():
            log.step(task, step)
            self.on_step(task.name, offset + step.number, self.steps)
            if self.stop or step.number % self.recipe.checkpoint_every == 0:
                self._save(offset + step.number, number, trainer, log, started)
            if self.stop:
                raise Interrupted
        record.warn_if_inert(log, task)
        self.method.end_task(self.model, task, Clean(batches, torch.device(self.recipe.device)))
        for index in [task.index] if self.sequential else range(1, after + 1):
            self.model.store_heads(index)
        log.write("task", index=task.index, name=task.name, steps=trainer.done, seconds=time.monotonic() - begun)
        self.score(after, log)
        keep_learned(self.folder, after, self.method.backward_maps)
        self._save(offset + trainer.total, number + 1, None, log, started)
        if self.stop and number + 1 < len(self.lessons):  # asked while scoring
            raise Interrupted

    def _take_over(self, state: Mapping[str, Any], log: record.Log, started: float) -> None:
        self._load_learner(state)
        record.begin(self)
        number = state["lesson"]
        self._save(sum(s.total(len(b)) for _, _, b, s, _ in self.lessons[:number]), number, None, log, started)
        if self.stop:
            raise Interrupted

    def score(self, after: int, log: record.Log) -> None:
        """A row of scores with the model as it is, its anchors, and its encoder."""
        self.on_step("evaluating", 0, 0)
        routed = (
            routing.accuracy(self.method, self.collection, self.curriculum, self.recipe.eval_split) if after else {}
        )
        embed = self.embedder()
        row = self.book.add_row(after, embed, routed)
        log.write("eval", after=after, scores=row)
        self.book.write(self.folder)
        on_test = self.recipe.eval_split == "test"
        tasks = [t if on_test else t._replace(test=t.valid) for t, _ in self.curriculum.tasks]
        classes = {t.index for t, c in self.curriculum.tasks if anchors.of_classes(c.score)}
        anchors.keep(self.folder, after, tasks, embed, self.model.modalities, self.recipe.anchors, classes)
        self._save_encoder(after)

    def embedder(self) -> Embedder:
        """The function that evaluators see, over the model as it is now."""
        numbers = {i.id: t.index for t, _ in reversed(self.curriculum.tasks) for i in (*t.train, *t.valid, *t.test)}
        encoder = signature(self.model)
        return Embedder(self.model, self.method, self.collection, self.towers, encoder=encoder, tasks=numbers)

    def _validator(self, task: Task, objective: Objective, watch: str) -> Callable[[], float] | None:
        """What early stopping and the plateau rule look at; higher is better."""
        watched = [(t, c) for t, c in self.curriculum.tasks if not self.sequential or t.index == task.index]
        if not all(t.valid for t, _ in watched):
            return None  # nothing asks for it: assemble refuses a rule that watches what is not there
        if watch == "loss":
            held_out = [t._replace(train=t.valid) for t, _ in watched]
            loaders = [
                assemble.build_loader(self.recipe, t, c, self.collection, self.model, self.recipe.seed)
                for t, (_, c) in zip(held_out, watched, strict=True)
            ]
            device = torch.device(self.recipe.device)
            return lambda: (
                -validation_loss(
                    self.model, self.method, objective, (b for part in loaders for b in Clean(part, device))
                )
            )

        def validate() -> float:
            embed = self.embedder()
            return sum(validation_score(t, embed) for t, _ in watched) / len(watched)

        return validate

    def _save(self, position: int, lesson: int, trainer: Trainer | None, log: record.Log, started: float) -> None:
        state = {
            "recipe": self.recipe.hash,
            "fingerprint": self.fingerprint,
            "lesson": lesson,
            "seconds": time.monotonic() - started,
            "log": log.size(),
            "book": json.dumps(self.book.state()),
            "model": without(self.model.state_dict(), self.unmoved),
            "method": self.method.state_dict(),
            "trainer": None if trainer is None else trainer.state_dict(),
        }
        checkpoint.save(self.folder / "checkpoints", position, state)

    def _resume(self, log: record.Log) -> dict[str, Any]:
        """The last checkpoint, taken in; or the state of a run that has not begun."""
        kept = checkpoint.found(self.folder / "checkpoints")
        if not kept:
            log.cut(0)
            return {"lesson": 0, "trainer": None, "seconds": 0.0}
        state = checkpoint.load(kept[-1][1], self.recipe.hash)
        if state["fingerprint"] != self.fingerprint:
            raise UserError(assemble.other_data(self.folder))
        log.cut(state["log"])
        self.book.restore(json.loads(state["book"]))
        self._load_learner(state)
        return {**state, "trainer": state if state["trainer"] is not None else None}

    def _load_learner(self, state: Mapping[str, Any]) -> None:
        refuse_others(*self.model.load_state_dict(state["model"], strict=False), self.unmoved)
        self.method.load_state_dict(state["method"])

    def _save_encoder(self, after: int) -> None:
        staged = {m for s in self.recipe.stages for m in s.learn} - (self.model.learn - self.unmoved)
        if staged and after == 0:  # so that the folder can be moved: stages are in no checkpoint
            save_towers(self.folder / "frozen.safetensors", {m: self.towers[m] for m in sorted(staged)})
        save_encoder(self.folder, after, self.model, self.method, self.unmoved)

    def _ask_to_stop(self) -> None:
        self.stop = True
