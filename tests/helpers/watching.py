"""Reporters and checkpoints that note what a distillation does, and stop it."""

import copy

from ddbench.progress import Reporter
from ddbench.training.checkpoints import Checkpoint


class Stopped(Exception):
    """The run was stopped here."""


class Watch(Reporter):
    """Notes how many steps of what were made; stops at one."""

    def __init__(self, label=None, step=None):
        self.stop, self.steps = (label, step), {}

    def advance(self, label, done, total):
        self.steps[label] = self.steps.get(label, 0) + 1
        if self.stop == (label, done):
            raise Stopped


class StopAt(Reporter):
    """Notes the steps of what it watches (None: of everything), and stops after so many."""

    def __init__(self, last=None, watched=None):
        self.last, self.seen, self.watched = last, [], watched

    def advance(self, label, done, total):
        if self.watched in (None, label):
            self.seen.append(done)
            if done == self.last:
                raise Stopped


class Kept(Checkpoint):
    """Keeps every state that it is offered."""

    def __init__(self):
        super().__init__(None)
        self.states = []

    def save_when_due(self, state):
        self.states.append(copy.deepcopy(state()))
