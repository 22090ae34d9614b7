# ruff: noqa: E501
"""Preflight on the devices present, and for TPU slices where their compiler is installed; reading compiled programs."""

import importlib.util
import json

import pytest

from jaxunet import hlo, preflight
from jaxunet.errors import UserError

HLO = """
HloModule step, is_scheduled=true

%region (a: f32[], b: f32[]) -> f32[] {
  ROOT %add = f32[] add(f32[] %a, f32[] %b)
}

ENTRY %main (p0: bf16[8,16,16,16], p1: f32[64]) -> (bf16[8,16,16,16], f32[64]) {
  %p0 = bf16[8,16,16,16]{3,2,1,0:T(8,128)(2,1)} parameter(0)
  %p1 = f32[64]{0:T(128)} parameter(1)
  %copy-start = (bf16[8,16,16,16]{3,2,1,0:T(8,128)(2,1)S(1)}, bf16[8,16,16,16]{3,2,1,0:T(8,128)(2,1)}, u32[]{:S(2)}) copy-start(%p0)
  %copy-done = bf16[8,16,16,16]{3,2,1,0:T(8,128)(2,1)S(1)} copy-done(%copy-start)
  %fusion.1 = bf16[8,16,16,16]{3,2,1,0:T(8,128)(2,1)} fusion(%copy-done, %p1), kind=kLoop, calls=%region
  %all-reduce-start.1 = (f32[64]{0:T(128)}, f32[32]{0:T(128)}) all-reduce-start(%p1, %p1), replica_groups={}, to_apply=%region
  %all-reduce-done.1 = (f32[64]{0:T(128)}, f32[32]{0:T(128)}) all-reduce-done(%all-reduce-start.1)
  %all-reduce.2 = f32[64]{0:T(128)} all-reduce(%p1), replica_groups={}, to_apply=%region
  ROOT %tuple = (bf16[8,16,16,16]{3,2,1,0:T(8,128)(2,1)}, f32[64]{0:T(128)}) tuple(%fusion.1, %all-reduce.2)
}
"""


def test_collectives_are_counted_once():
    assert hlo.collectives(HLO) == {"all-reduce": {"count": 2, "bytes": 4 * (64 + 32 + 64)}}


def test_narrow_channels_are_padded_to_a_tile():
    found = hlo.padding(HLO)
    assert found["worst"] == {"bf16[8,16,16,16]": 8.0}
    assert 7 < found["factor"] <= 8


def test_main_memory_leaves_out_what_stays_on_the_chip():
    image, vector = 8 * 16 * 16 * 128 * 2, 4 * 64
    reduce_start, reduce = vector + 4 * 32, 2 * vector
    assert hlo.main_memory_bytes(HLO) == image + (image + vector) + reduce_start + reduce


def test_local_preflight_tells_memory_work_and_collectives(config, tmp_path, capsys):
    result = preflight.preflight(config, ["local"], tmp_path, batch_per_chip=0)["local"]
    assert json.loads((tmp_path / "preflight.json").read_text()) == {"local": result}
    assert (result["chips"], result["batch_per_chip"]) == (2, 2)
    train, eval_ = result["train"], result["eval"]
    assert train["flops_per_image"] > 2 * eval_["flops_per_image"] > 0
    assert train["peak_bytes"] > train["temp_bytes"] > 0
    assert train["collectives"]["all-reduce"]["count"] >= 1
    assert not eval_["collectives"]
    assert "train, per image:" in capsys.readouterr().out
    more = preflight.preflight(config, ["cpu"], None, batch_per_chip=4)["cpu"]["train"]
    assert more["temp_bytes"] > 1.5 * train["temp_bytes"]
    assert more["flops_per_image"] == pytest.approx(train["flops_per_image"], rel=0.1)


def test_mistakes_are_sentences(config, monkeypatch):
    with pytest.raises(UserError, match="--topology is missing"):
        preflight.preflight(config, [], None, batch_per_chip=0)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"v5e:2x2 needs the TPU compiler: pip install 'jaxunet\[tpu\]'"):
        preflight.preflight(config, ["v5e:2x2"], None, batch_per_chip=1)
    config.train.batch_size = 1
    with pytest.raises(UserError, match="leaves some of the 2 chips of local without an image"):
        preflight.preflight(config, ["local"], None, batch_per_chip=0)


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu (extra [tpu]) is not installed")
def test_a_slice_that_is_not_here(config):
    result = preflight.preflight(config, ["v5e:2x2"], None, batch_per_chip=8)["v5e:2x2"]
    assert result["chips"] == 4
    assert result["train"]["fits"]
    assert result["train"]["roofline_images_per_second_per_chip"] > 0
    assert result["train"]["collectives"]["all-reduce"]["count"] >= 1
    with pytest.raises(UserError, match="--topology=v5e:7x13 is not known to the TPU compiler"):
        preflight.preflight(config, ["v5e:7x13"], None, batch_per_chip=8)
