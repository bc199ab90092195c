"""The deterministic provider: answers like the real ones with the token counts a request asks for, and misbehaves on
command. Pure builders of bodies stand in one module per provider API; `server` is the HTTP edge.
"""
