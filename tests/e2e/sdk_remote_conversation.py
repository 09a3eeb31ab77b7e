"""The OpenHands SDK's own remote client, as it is: create a conversation, say something, tell what the agent did.

Runs in an interpreter that has the SDK. Usage: sdk_remote_conversation.py URL MODEL_URL TEXT, key in SESSION_KEY.
"""

import json
import os
import sys

from openhands.sdk import LLM, Agent, Conversation, RemoteWorkspace, Tool
from openhands.tools.terminal import TerminalTool
from pydantic import SecretStr

url, model_url, text = sys.argv[1:]
callbacks = []
llm = LLM(model="openai/scripted", api_key=SecretStr("sk-scripted"), base_url=model_url, usage_id="agent")
conversation = Conversation(
    agent=Agent(llm=llm, tools=[Tool(name=TerminalTool.name)]),
    workspace=RemoteWorkspace(host=url, api_key=os.environ["SESSION_KEY"], working_dir="/workspace/project"),
    callbacks=[lambda event: callbacks.append(type(event).__name__)],
    secrets={"TOKEN": "token-0123456789"},
    visualizer=None,
)
conversation.send_message(text)
conversation.run()
events = [event for event in conversation.state.events if type(event).__name__ == "ObservationEvent"]
observed = [event.model_dump_json() for event in events]
status = conversation.state.execution_status.value
conversation.close()
print(json.dumps({"status": status, "observed": "\n".join(observed), "callbacks": callbacks}))
