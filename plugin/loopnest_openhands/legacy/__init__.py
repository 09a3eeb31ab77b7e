"""The legacy OpenHands server (openhands-ai up to 1.6.0), which loads one class by ``CONVERSATION_MANAGER_CLASS``."""
