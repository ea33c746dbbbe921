"""Sequential fine-tuning: nothing is done against forgetting. The baseline that every comparison needs, tuned."""

from polymnia.continual.method import AbstractMethod, MethodConfig, Setup


class Config(MethodConfig):
    """No keys: the learning rate is what to tune."""


class Method(AbstractMethod):
    """The objective alone. An empty chain does the same."""

    def __init__(self, cfg: Config, setup: Setup):
        super().__init__()
