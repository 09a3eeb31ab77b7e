"""The OpenHands SDK's own remote client, as it is: attach to a conversation, say something, print what the agent did.

Runs in an interpreter that has the SDK. Usage: sdk_client.py URL CONVERSATION_ID MODEL_URL TEXT, key in SESSION_KEY.
"""

import os
import sys
import uuid

from openhands.sdk import LLM, Agent, Conversation, Tool, Workspace
from openhands.tools.terminal import TerminalTool  # registers the kind, without which events can't be read
from pydantic import SecretStr

url, conversation_id, model_url, text = sys.argv[1:]
llm = LLM(model="openai/scripted", api_key=SecretStr("sk-scripted"), base_url=model_url, usage_id="agent")
conversation = Conversation(
    agent=Agent(llm=llm, tools=[Tool(name=TerminalTool.name)]),
    workspace=Workspace(host=url, api_key=os.environ["SESSION_KEY"], working_dir="/workspace/project"),
    conversation_id=uuid.UUID(conversation_id),
    visualizer=None,
    delete_on_close=False,
)
conversation.send_message(text)
conversation.run()
for event in conversation.state.events:
    print(type(event).__name__, event.model_dump_json())
conversation.close()
