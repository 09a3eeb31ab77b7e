"""The current app server (openhands-ai 1.7 and newer): its sandboxes are loops of the selected strategy.

A sandbox is a bare loop: the app server talks to the nested agent server itself, and creates the conversations in it.
What it must know of a sandbox later, in any process, is noted on the loop.
"""
