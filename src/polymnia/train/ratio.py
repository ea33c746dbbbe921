"""How hard each term pulls: the norm of its gradient over the objective's, and scales set from it."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from polymnia.continual.method import Balance
from polymnia.types import Terms

INERT = 0.05  # below this ratio a term changes nothing worth naming


def norms(terms: Terms, parameters: Sequence[nn.Parameter]) -> dict[str, float]:
    """The gradient norm of every term with respect to ``parameters``; the graph stays for the real backward."""
    out: dict[str, float] = {}
    for name, term in terms.items():
        out[name] = 0.0
        if term.requires_grad and parameters:
            grads = torch.autograd.grad(term, parameters, retain_graph=True, allow_unused=True)
            squares = [g.square().sum() for g in grads if g is not None]
            out[name] = float(torch.stack(squares).sum().sqrt()) if squares else 0.0
    return out


class Balancer:
    """Scales of the terms of each balanced method, from ratios measured at the start of every task.

    The ratio is that of the method's summed terms; its scale multiplies all of them. State survives a restart.
    """

    def __init__(self, balances: Mapping[str, Balance]):
        self.balances = dict(balances)
        self.scale: dict[str, float] = dict.fromkeys(self.balances, 1.0)
        self.seen: dict[str, list[float]] = {n: [] for n in self.balances}

    def state_dict(self) -> dict[str, dict]:
        return {"scale": self.scale, "seen": self.seen}

    def load_state_dict(self, state: dict[str, dict]) -> None:
        self.scale, self.seen = dict(state["scale"]), {n: list(v) for n, v in state["seen"].items()}

    def wants(self, step: int) -> bool:
        """Whether some method still has to be measured on this step of the task."""
        return any(b.skip <= step < b.skip + b.batches for b in self.balances.values())

    def scaled(self, terms: Terms) -> Terms:
        """The terms times their method's scale."""
        return {n: self.scale.get(n.split("/")[0], 1.0) * t for n, t in terms.items()}

    def observe(self, step: int, terms: Terms, objective: Tensor, parameters: Sequence[nn.Parameter]) -> None:
        """Take in the ratios of one step (unscaled terms); after the last of them, set the scales."""
        for name, balance in self.balances.items():
            own = [t for n, t in terms.items() if n.split("/")[0] == name]
            if not own or not balance.skip <= step < balance.skip + balance.batches:
                continue
            measured = norms({"own": torch.stack(own).sum(), "objective": objective}, parameters)
            if measured["own"] > 0 and measured["objective"] > 0:
                self.seen[name].append(measured["own"] / measured["objective"])
            if step == balance.skip + balance.batches - 1 and self.seen[name]:
                median = sorted(self.seen[name])[len(self.seen[name]) // 2]
                self.scale[name] = min(balance.target / median, balance.largest)
