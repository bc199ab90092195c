"""Gateways side by side: Envoy alone, a do-nothing ext_proc, Tollgate, LiteLLM's proxy. `./dev bench` runs it."""
