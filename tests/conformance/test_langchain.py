"""langchain-tests' standard tests of chat models, unmodified, through langchain-openai."""

import os

import pytest
from langchain_core.language_models import BaseChatModel
from langchain_openai import ChatOpenAI
from langchain_tests.integration_tests import ChatModelIntegrationTests

MODEL = "internvl-demo"


class TestChatOpenAI(ChatModelIntegrationTests):
    """What the served model has is switched on; no test is changed or skipped by us."""

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatOpenAI

    @property
    def chat_model_params(self) -> dict[str, object]:
        return {
            "base_url": os.environ["CONFORMANCE_URL"],
            "api_key": "none",
            "model": MODEL,
            "temperature": 0,
            "max_tokens": 192,
            "max_retries": 0,
            "stream_usage": True,
        }

    @property
    def chat_model_params_override(self) -> str:
        return MODEL

    @property
    def has_tool_choice(self) -> bool:
        return True

    @property
    def supports_json_mode(self) -> bool:
        return True

    @property
    def supports_image_inputs(self) -> bool:
        return True

    @property
    def supports_image_tool_message(self) -> bool:
        return True

    @pytest.fixture
    def model(self) -> BaseChatModel:
        return ChatOpenAI(**self.chat_model_params)
