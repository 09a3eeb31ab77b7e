from loopnest import hookimpl


@hookimpl(wrapper=True)
def list_loops(query):
    loops = yield
    return [loop for loop in loops if not loop.conversation_id.startswith("demo-")]
