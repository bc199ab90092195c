#!/bin/sh
# Plain HTTP: the same virtual key, in the header that each provider's dialect wants.
set -eu
: "${TOLLGATE_URL:?where the gateway is}" "${TOLLGATE_KEY:?a virtual key}"
tags=$(tollgate tag --tag cost_center=search)

curl -sS --fail-with-body "$TOLLGATE_URL/v1/chat/completions" \
  -H "authorization: Bearer $TOLLGATE_KEY" -H "$tags" -H 'content-type: application/json' \
  -d '{"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Say hello."}]}'
echo

curl -sS --fail-with-body "$TOLLGATE_URL/v1/messages" \
  -H "x-api-key: $TOLLGATE_KEY" -H 'anthropic-version: 2023-06-01' -H "$tags" -H 'content-type: application/json' \
  -d '{"model": "claude-sonnet-4-6", "max_tokens": 64, "messages": [{"role": "user", "content": "Say hello."}]}'
echo
