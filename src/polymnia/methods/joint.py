"""All tasks at once: what could be had if nothing had to be learned in sequence. A reference, not a competitor."""

from polymnia.continual.method import AbstractMethod, MethodConfig, Setup


class Config(MethodConfig):
    """No keys. The run takes the batches of all tasks in one shuffled sequence, with the steps of all of them and the
    other ``train`` settings of the first; early stopping watches the mean over the tasks."""


class Method(AbstractMethod):
    """The objective alone, over the batches of all tasks."""

    sequential = False

    def __init__(self, cfg: Config, setup: Setup):
        super().__init__()
