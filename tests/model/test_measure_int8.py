"""The script that compares int8 weights with float32."""

import json
import sys

import pytest
import torch

from scripts import measure_int8

pytestmark = pytest.mark.model


def test_equal_logits_do_not_deviate_and_others_do():
    logits = torch.tensor([[2.0, 1.0, 0.0], [0.0, 3.0, 1.0], [0.0, 0.0, 1.0]])
    ids = torch.tensor([0, 0, 1])
    same = measure_int8.compare(logits, logits, ids)
    assert same["largest_deviation"] == same["mean_divergence_nats"] == 0
    assert same["same_likeliest_token"] == 1
    assert same["perplexity_float32"] == same["perplexity_int8"]
    moved = measure_int8.compare(logits, logits + torch.tensor([0.0, 1.5, 0.0]), ids)
    assert moved["largest_deviation"] == 1.5
    assert moved["same_likeliest_token"] == pytest.approx(1 / 3, abs=1e-4)
    assert moved["largest_margin_of_another_token"] == 1
    assert moved["largest_divergence_nats"] > 0.1
    assert moved["perplexity_int8"] != moved["perplexity_float32"]


def test_a_checkpoint_and_a_text_are_measured(tiny_checkpoint, tmp_path, monkeypatch, capsys):
    text = tmp_path / "text.txt"
    text.write_text("Sphinx of black quartz, judge my vow." * 3)
    options = [str(tiny_checkpoint), "--text", str(text), "--tokens", "60"]
    monkeypatch.setattr(sys, "argv", ["measure_int8.py", *options])
    measure_int8.main()
    measured = json.loads(capsys.readouterr().out)
    assert 0 < measured["mean_absolute_deviation"] < 0.05 * measured["logits_standard_deviation"]
    assert measured["same_likeliest_token"] > 0.9
