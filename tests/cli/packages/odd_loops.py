"""Plugins that import but do not fit."""

from loopnest import hookimpl


class Misspelt:
    @hookimpl
    def send_evnt(self, event):
        return None


class WrongArguments:
    @hookimpl
    def send_event(self, evnet):
        return None
