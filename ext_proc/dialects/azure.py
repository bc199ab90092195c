"""Azure OpenAI's deployment paths: OpenAI's bodies, whose model is the deployment that the path names.

Azure's newer `/openai/v1/…` paths are OpenAI's own and need nothing here: an account's endpoint ends in `/openai/v1`.
"""

from __future__ import annotations

import re
from dataclasses import replace

from ext_proc.dialects import jsonbody
from ext_proc.dialects.base import BaseDialect
from ext_proc.dialects.interface import RequestFacts
from ext_proc.dialects.openai_chat import OpenAIChat
from ext_proc.dialects.openai_completions import OpenAICompletions
from ext_proc.dialects.openai_embeddings import OpenAIEmbeddings

DEPLOYMENT_IN_PATH = re.compile(r"/deployments/(?P<model>[^/?]+)/")


class _Deployment(BaseDialect):
    """The deployment counts, whatever `model` the body names: it is what Azure serves and bills."""

    default_account = "azure-main"
    path_model = DEPLOYMENT_IN_PATH

    def facts(self, document: jsonbody.Document, path: str) -> RequestFacts:
        """The facts of a parsed body."""
        named: jsonbody.Document = {**document, "model": self.model_in_path(path)}
        return replace(super().facts(named, path), document=document)


class AzureChat(_Deployment, OpenAIChat):
    """`POST /openai/deployments/{deployment}/chat/completions`."""

    name = "azure-chat"


class AzureCompletions(_Deployment, OpenAICompletions):
    """`POST /openai/deployments/{deployment}/completions`."""

    name = "azure-completions"


class AzureEmbeddings(_Deployment, OpenAIEmbeddings):
    """`POST /openai/deployments/{deployment}/embeddings`."""

    name = "azure-embeddings"
