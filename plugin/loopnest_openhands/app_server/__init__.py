"""The current app server (openhands-ai 1.9 to 1.11): its sandboxes are loops of the selected strategy.

A sandbox is a bare loop: the app server talks to the nested agent server itself, and creates the conversations in it.
What it must know of a sandbox later, in any process, is noted on the loop.
"""
