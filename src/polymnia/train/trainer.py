"""The loop: the only place that steps an optimizer. A generator, so that what surrounds it needs no callbacks."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from polymnia.continual.chain import Chain
from polymnia.continual.method import embed_batch
from polymnia.continual.objective import Objective as PairObjective
from polymnia.data.loader import StepBatches, stream
from polymnia.models.model import Model
from polymnia.train.ratio import Balancer, norms
from polymnia.train.settings import TrainConfig, build_optimizer, rate
from polymnia.types import Batch, Outputs, Terms, UserError

Objective = Callable[[Model, Batch, Outputs], Terms]


class LossError(UserError):
    """A loss that is not a number. The last checkpoint is untouched."""


@dataclass(frozen=True)
class Step:
    """What the loop yields after each step: numbers for the log."""

    number: int  # steps done in this task, this one included
    total: int
    epoch: int
    lr: float
    loss: float
    terms: dict[str, float]
    ratio: dict[str, float]
    facts: dict[str, float]


class Trainer:
    """Trains one task; ``steps()`` runs from where the state says to the end.

    ``seed`` and ``number`` name the random streams; ``validate`` gives the metric of the plateau rule and of early
    stopping (higher is better), asked at epoch ends only where one of them is on.
    """

    def __init__(
        self,
        model: Model,
        method: Chain,
        objective: Objective,
        loader: StepBatches,
        cfg: TrainConfig,
        seed: tuple[int, int],
        validate: Callable[[], float] | None = None,
        workers: int = 0,
    ):
        self.model, self.method, self.objective, self.loader, self.cfg = model, method, objective, loader, cfg
        self.seed, self.validate, self.workers = seed, validate, workers
        self.total = cfg.total(len(loader))
        self.parameters = [p for m in (model, method) for p in m.parameters() if p.requires_grad]
        if not self.parameters and self.total:
            raise UserError("nothing trains: every tower is frozen and no head or method has parameters")
        heads = [*model.heads.parameters(), *model.log_scale.parameters()]
        self.optimizer = build_optimizer(cfg, self.parameters, heads) if self.parameters else None
        self.balancer = Balancer(method.balances)
        self._refuse_short_tasks()
        self.done = 0
        self.factor = 1.0  # of the plateau rule
        self.best: dict[str, Any] = {"metric": -math.inf, "epoch": -1, "cut": -1, "model": None, "method": None}
        self.stopped = False

    def _refuse_short_tasks(self) -> None:
        """A task that ends before the balance is measured would silently train at the literal scale."""
        for name, balance in self.method.balances.items():
            if 0 < self.total < balance.skip + balance.batches:
                raise UserError(
                    f"{name}: balance measures steps {balance.skip + 1} to {balance.skip + balance.batches}, but the "
                    f"task has {self.total}; train longer, or lower balance.skip and balance.batches"
                )

    def state_dict(self) -> dict[str, Any]:
        return {
            "done": self.done,
            "optimizer": self.optimizer.state_dict() if self.optimizer else {},
            "balancer": self.balancer.state_dict(),
            "factor": self.factor,
            "best": self.best,
            "stopped": self.stopped,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.done, self.factor = state["done"], state["factor"]
        self.best, self.stopped = state["best"], state["stopped"]
        if self.optimizer:
            self.optimizer.load_state_dict(state["optimizer"])
        self.balancer.load_state_dict(state["balancer"])

    def steps(self) -> Iterator[Step]:
        """One optimizer step each. Raises LossError at the first loss that is not finite."""
        device = next(self.model.parameters()).device
        for batch in stream(self.loader, self.done, self.total, self.workers):
            if self.stopped:
                break
            step = self._step(batch.to(device))
            if self.cfg.validates and self.validate and self.done % len(self.loader) == 0:
                self._epoch_end()  # before the yield: a checkpoint of this step must hold what it decides
            yield step
        if self.best["model"] is not None:
            self.model.load_state_dict(self.best["model"])
            self.method.load_state_dict(self.best["method"])

    def _step(self, batch: Batch) -> Step:
        step = self.done
        torch.manual_seed(hash((*self.seed, step)) % 2**63)  # dropout: a function of (seed, task, step) alone
        self._train_mode()
        lr = rate(self.cfg, step, self.total, len(self.loader), self.factor)
        assert self.optimizer is not None
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group["share"]
        batch = self.method.mix(batch)
        with torch.autocast(batch.group.device.type, torch.bfloat16, enabled=self.cfg.bf16):
            out = embed_batch(self.method, self.model, batch)
            goal = {n: self.method.share * t for n, t in self.objective(self.model, batch, out).items()}
            raw = self.method.loss(self.model, batch, out)
        summed = torch.stack(list(goal.values())).sum()
        pulled = self.model.tower_parameters() or self.parameters
        if self.balancer.wants(step):
            self.balancer.observe(step, raw, summed, pulled)
        terms = self.balancer.scaled(raw)
        loss = torch.stack([summed, *terms.values()]).sum()
        self._refuse_nan(loss, {**goal, **terms}, step)
        ratio = self._ratio(terms, summed, pulled) if self._measures(step) else {}
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.method.after_backward(self.model)
        if self.cfg.clip is not None:
            clip_gradients(self.parameters, self.cfg.clip)
        self.optimizer.step()
        self.done += 1
        values = {n: float(t.detach()) for n, t in {**goal, **terms}.items()}
        epoch = step // len(self.loader)
        return Step(self.done, self.total, epoch, lr, float(loss.detach()), values, ratio, dict(self.method.facts))

    def _train_mode(self) -> None:
        self.model.train()
        self.method.train()
        if self.cfg.freeze_bn:
            for layer in self.model.towers.modules():
                if isinstance(layer, nn.modules.batchnorm._BatchNorm):
                    layer.eval()

    def _measures(self, step: int) -> bool:
        # At the end of every stretch: on a task's first steps a distillation term has next to no gradient yet.
        return bool(self.cfg.measure) and step % self.cfg.measure == self.cfg.measure - 1

    def _ratio(self, terms: Terms, objective: Tensor, parameters: list[nn.Parameter]) -> dict[str, float]:
        own: dict[str, list[Tensor]] = {}
        for name, term in terms.items():
            own.setdefault(name.split("/")[0], []).append(term)
        if not own:
            return {}
        measured = norms({"objective": objective, **{n: torch.stack(t).sum() for n, t in own.items()}}, parameters)
        whole = measured.pop("objective")
        return {n: v / whole for n, v in measured.items()} if whole else {}

    def _refuse_nan(self, loss: Tensor, terms: Terms, step: int) -> None:
        if not torch.isfinite(loss):
            shown = ", ".join(f"{n} = {float(t.detach()):.4g}" for n, t in terms.items())
            raise LossError(
                f"the loss is {float(loss.detach())} at step {step + 1} of {self.total} ({shown}). The last good "
                "checkpoint is kept; lower train.lr, set train.clip, or lower the scale of the term that grew."
            )

    def _epoch_end(self) -> None:
        assert self.validate is not None
        metric, epoch, s = self.validate(), self.done // len(self.loader), self.cfg.schedule
        if metric > self.best["metric"]:
            self.best |= {"metric": metric, "epoch": epoch, "cut": epoch}
            if self.cfg.stop:
                self.best["model"] = copy.deepcopy(self.model.state_dict())
                self.best["method"] = copy.deepcopy(self.method.state_dict())
        if s.kind == "plateau" and epoch - max(self.best["epoch"], self.best["cut"]) > s.patience:
            self.factor *= s.gamma
            self.best["cut"] = epoch
        if self.cfg.stop and epoch - self.best["epoch"] >= self.cfg.stop.patience:
            self.stopped = True


@torch.no_grad()
def validation_loss(model: Model, method: Chain, objective: PairObjective, batches: Iterable[Batch]) -> float:
    """The objective's mean over the rows of some batches, model and method as in evaluation. Batches that hold no two
    rows of a pair are left out: there is nothing to contrast."""
    training = model.training
    model.eval(), method.eval()
    total, rows = 0.0, 0
    for batch in batches:
        if objective.applies(batch):
            terms = objective(model, batch, embed_batch(method, model, batch))
            total += len(batch) * float(torch.stack(list(terms.values())).sum())
            rows += len(batch)
    model.train(training), method.train(training)
    return total / rows if rows else math.inf


def clip_gradients(parameters: Sequence[nn.Parameter], most: float) -> None:
    """Scale all gradients so that their joint norm is at most ``most``.

    The squares are summed exactly (``fsum``): a parameter whose gradient is zero, such as the predictor of a term of
    weight 0, then changes no bit of a run.
    """
    norms = [torch.linalg.vector_norm(p.grad) for p in parameters if p.grad is not None]
    if norms:
        total = math.sqrt(math.fsum(n * n for n in torch.stack(norms).tolist()))
        nn.utils.clip_grads_with_norm_(parameters, most, torch.tensor(total, device=norms[0].device))
