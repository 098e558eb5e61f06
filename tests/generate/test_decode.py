"""Batched, padded and on a shared prefix, every prompt gets the answer it would get alone, on every architecture."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from stillhouse.compute.attention import fits
from stillhouse.errors import InputError
from stillhouse.generate import Ids, Sampling, batches, common_prefix, computes_once, generate, prefill, score
from stillhouse.generate.prefix_tree import distinct_tokens, prefix_nodes, worth_sharing
from stillhouse.models import Model
from stillhouse.runners import TorchRunner
from stillhouse.trainer import padding_free
from tests import architectures, tokenizers

GREEDY = Sampling(max_new_tokens=9)
Make = Callable[..., Model]


def prompts(n: int, shared: int, seed: int = 0, longest: int = 23) -> list[Ids]:
    """`n` prompts of different lengths that begin with the same `shared` ids."""
    rng = random.Random(seed)

    def ids(k: int) -> Ids:
        return [rng.randrange(4, tokenizers.VOCABULARY) for _ in range(k)]

    head = ids(shared)
    return [head + ids(rng.randint(1, longest)) for _ in range(n)]


@torch.inference_mode()
def alone(model: Model, prompt: Ids, n: int) -> Ids:
    """The plain way: the whole sequence through the network again for every token, no cache, no padding."""
    ids, answer = list(prompt), []
    for _ in range(n):
        token = int(model.network(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax())
        if token in model.stop_ids:
            break
        answer.append(token)
        ids.append(token)
    return answer


@pytest.fixture(params=sorted(architectures.ALL))
def model(request: pytest.FixtureRequest, random_model: Make) -> Model:
    return random_model(request.param)


def test_batched_on_a_shared_prefix_is_token_for_token_one_by_one(model: Model) -> None:
    asked = prompts(7, shared=37)
    expected = [alone(model, p, GREEDY.max_new_tokens) for p in asked]
    assert len({tuple(e) for e in expected}) > 3, "answers that differ are what shows a mix-up"
    head = common_prefix(asked)
    assert head >= 37
    prefix = prefill(model, asked[0][:head], chunk=16)
    own = [p[head:] for p in asked]
    assert generate(model, own, GREEDY, prefix=prefix) == expected
    assert generate(model, own, GREEDY, prefix=prefix, batch=3) == expected, "a prefix is never written to"
    assert generate(model, asked, GREEDY) == expected


@pytest.mark.parametrize("name", sorted(architectures.ALL))
def test_a_text_is_shared_wherever_attention_is_of_the_common_form(random_model: Make, name: str) -> None:
    assert fits(random_model(name)) == (name != "gemma2"), "which caps its scores"


def test_the_shipped_model_shares(shipped: Model) -> None:
    assert fits(shipped) and computes_once(shipped)


@pytest.mark.parametrize("name", sorted(set(architectures.ALL) - {"gemma2"}))
def test_what_rows_begin_with_is_computed_once(random_model: Make, name: str) -> None:
    model = random_model(name)
    own = prompts(9, shared=6, seed=3, longest=5)
    drafts = [[ids[0], 9] for ids in own]
    seen: list[int] = []
    embedding = model.network.get_input_embeddings()
    assert fits(model) and computes_once(model)
    with embedding.register_forward_pre_hook(lambda module, ids: seen.append(ids[0].numel())):
        generate(model, own, Sampling(3), drafts=drafts)
    rows = [tuple(ids + draft) for ids, draft in zip(own, drafts, strict=True)]
    assert seen[0] == len({row[: n + 1] for row in rows for n in range(len(row))}) < sum(map(len, rows)) - 40


@given(st.lists(st.tuples(st.integers(0, 1), st.lists(st.integers(0, 2), min_size=1, max_size=5)), min_size=1))
def test_prefix_nodes_are_the_same_where_everything_before_is(drawn: list[tuple[int, list[int]]]) -> None:
    kinds, rows = [kind for kind, _ in drawn], [row for _, row in drawn]
    before = [(kind, *row[: n + 1]) for kind, row in drawn for n in range(len(row))]
    numbers = [number for row in prefix_nodes(rows, kinds) for number in row]
    assert len(set(zip(numbers, before, strict=True))) == len(set(numbers)) == len(set(before)) == max(numbers) + 1
    width = max(map(len, rows)) + 1
    starts = [width - len(row) - n % 2 for n, row in enumerate(rows)]
    distinct = distinct_tokens(rows, kinds, starts, width, torch.device("cpu"))
    number_BT = torch.full((len(rows), width), -1)
    for b, (start, own) in enumerate(zip(starts, prefix_nodes(rows, kinds), strict=True)):
        number_BT[b, start : start + len(own)] = torch.tensor(own)
    once_U = distinct.pick(number_BT.flatten())
    assert once_U.tolist() == list(range(max(numbers) + 1))
    assert distinct.expand(once_U).view_as(number_BT)[number_BT >= 0].tolist() == numbers
    kind_of = {number: kind for number, (kind, *_) in zip(numbers, before, strict=True)}
    assert [kinds[cell // width] for cell in distinct.source_U.tolist()] == [
        kind_of[number] for number in once_U.tolist()
    ]


@pytest.mark.parametrize(
    ("rows", "shared", "own", "worth"),
    [(16, 20, 10, True), (16, 2, 28, False), (8, 20, 10, False), (16, 200, 100, False)],
)
def test_rows_are_computed_once_where_that_costs_less(rows: int, shared: int, own: int, worth: bool) -> None:
    beginning = list(range(shared))
    some = [[*beginning, *range(1000 * row, 1000 * row + own)] for row in range(1, rows + 1)]
    assert worth_sharing(some) == worth
    assert not worth_sharing(some, range(rows)), "each has an adapter of its own"


def test_prompts_behind_different_texts_are_answered_in_one_batch(model: Model) -> None:
    texts = [prompts(1, shared=n)[0] for n in (31, 12)]
    prefixes = [prefill(model, ids) for ids in texts]
    own = [p[-(2 + n) :] for n, p in enumerate(prompts(7, shared=37))]
    before = [prefixes[0], None, prefixes[1], prefixes[0], prefixes[1], None, prefixes[0]]
    whole = [[*(text.ids if text else ()), *p] for text, p in zip(before, own, strict=True)]
    expected = [alone(model, p, GREEDY.max_new_tokens) for p in whole]
    assert len({tuple(e) for e in expected}) > 3
    for how in ({}, {"batch": 3}, {"drafts": drafts_for(expected, GREEDY.max_new_tokens)}, {"lookup": 2}):
        assert generate(model, own, GREEDY, prefix=before, **how) == expected
    drawn = Sampling(8, 0.9, 3)
    once = generate(model, own, drawn, prefix=before)
    order = [4, 2, 6, 0, 5, 1, 3]
    again = generate(model, [own[i] for i in order], drawn, prefix=[before[i] for i in order], numbers=order)
    assert again == [once[i] for i in order]


def drafts_for(answers: list[Ids], longest: int) -> list[Ids]:
    """In turns: right, right but too short, wrong from the middle, wrong at once, empty, right and too long."""
    drafts = []
    for i, answer in enumerate(answers):
        wrong = [4 + (t + 1) % (tokenizers.VOCABULARY - 4) for t in answer]
        ways = [answer, answer[: len(answer) // 2], answer[:2] + wrong[2:], wrong, [], answer + [5, 6] * longest]
        drafts.append(ways[i % len(ways)])
    return drafts


def test_drafts_change_neither_answers_nor_what_they_are_chosen_from(model: Model) -> None:
    asked = prompts(12, shared=29, seed=6)
    first = generate(model, asked, GREEDY)
    model = replace(model, stop_ids=frozenset({first[0][4], first[5][2], first[7][0], first[8][8]}))

    def answered(prompts: list[Ids], **how: Any) -> tuple[list[Ids], list[Tensor]]:
        seen: list[list[Tensor]] = [[] for _ in prompts]

        def keep(rows: list[int], logits_NV: Tensor) -> None:
            for row, logits_V in zip(rows, logits_NV, strict=True):
                seen[row].append(logits_V)

        answers = generate(model, prompts, GREEDY, on_step=keep, **how)
        return answers, [torch.stack(s) for s in seen]

    expected, logits = answered(asked)
    head = common_prefix(asked)
    own, prefix = [p[head:] for p in asked], prefill(model, asked[0][:head])
    drafts = drafts_for(expected, GREEDY.max_new_tokens)
    for answers, same in (
        answered(asked, drafts=drafts),
        answered(own, prefix=prefix, drafts=drafts),
        answered(own, prefix=prefix, drafts=drafts[::-1], batch=5),
        answered(asked, drafts=drafts[::-1], batch=1),
        answered(asked, lookup=4),
        answered(own, prefix=prefix, lookup=3, batch=5),
        answered(own, prefix=prefix, drafts=drafts, lookup=1),
    ):
        assert answers == expected
        for mine_KV, theirs_KV in zip(same, logits, strict=True):
            torch.testing.assert_close(mine_KV, theirs_KV, atol=1e-4, rtol=1e-4)


SMALL = {
    "vocab_size": tokenizers.VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "moe_intermediate_size": 24,
    "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "num_experts": 4,
    "n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1, "q_lora_rank": 16,
    "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8, "linear_num_key_heads": 2,
    "linear_num_value_heads": 4, "linear_key_head_dim": 8, "linear_value_head_dim": 8, "n_heads": 4, "n_layers": 4,
    "shared_expert_intermediate_size": 24, "d_model": 32, "max_position_embeddings": 512, "sliding_window": 16,
}  # fmt: skip


@pytest.mark.parametrize("name", ["afmoe", "deepseek_v3", "diffllama", "mpt", "qwen3_next"])
def test_networks_that_attend_or_remember_by_other_means(name: str, random_model: Make) -> None:
    """A latent in place of keys, attention past transformers' interface, distances by column, a recurrent state."""
    stock: Any = AutoConfig.for_model(name)
    known: dict[str, Any] = {k: v for k, v in SMALL.items() if hasattr(stock, k)}
    if hasattr(stock, "kv_lora_rank"):
        known |= {"num_key_value_heads": 4}
        known.pop("head_dim", None)
    if hasattr(stock, "layer_types"):
        known["layer_types"] = (list(dict.fromkeys(stock.layer_types)) * 4)[:4]
    torch.manual_seed(0)
    network = AutoModelForCausalLM.from_config(type(stock)(**known)).eval().requires_grad_(False)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.7 / parameter.shape[-1] ** 0.5)
    model = replace(random_model("llama"), network=network, stop_ids=frozenset())
    asked = prompts(6, shared=29, seed=3)
    expected = [alone(model, p, GREEDY.max_new_tokens) for p in asked]
    drafts = drafts_for(expected, 3)
    assert generate(model, asked, GREEDY) == expected
    assert generate(model, asked, GREEDY, drafts=drafts) == expected
    if name not in ("mpt", "qwen3_next"):  # they have no prefix that can be shared
        own, prefix = [p[29:] for p in asked], prefill(model, asked[0][:29])
        assert generate(model, own, GREEDY, prefix=prefix, drafts=drafts) == expected
    if padding_free.fits(model):
        lengths = [len(p) for p in asked]
        flat_TH = padding_free.states(
            model, torch.tensor([t for p in asked for t in p]), [lengths], lambda numbers: nullcontext()
        )
        for prompt, hidden_TH in zip(asked, flat_TH.split(lengths), strict=True):
            with torch.inference_mode():
                alone_TH = network.base_model(input_ids=torch.tensor([prompt]), use_cache=False).last_hidden_state[0]
            torch.testing.assert_close(hidden_TH, alone_TH, atol=1e-4, rtol=1e-4)


def test_a_right_draft_takes_one_step(random_model: Make) -> None:
    model = replace(random_model("qwen3"), stop_ids=frozenset())
    asked = prompts(9, shared=4, seed=7)
    answers = generate(model, asked, GREEDY)
    steps: list[list[int]] = []
    again = generate(model, asked, GREEDY, drafts=answers, on_step=lambda rows, logits: steps.append(rows))
    assert again == answers
    assert [sorted(rows) for rows in steps] == [[i for i in range(9) for _ in range(9)]]
    drawn = Sampling(9, temperature=1.0, seed=3)
    assert generate(model, asked, drawn, drafts=answers) == generate(model, asked, drawn)


def test_long_prompts_and_large_vocabularies_make_small_batches(
    random_model: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = replace(random_model("llama"), stop_ids=frozenset())
    asked = prompts(9, shared=20, seed=8)
    expected = generate(model, asked, GREEDY)
    for limit, least in (("TOKENS", 4 * 50), ("LOGITS", 4 * model.vocabulary)):
        done: list[int] = []
        with monkeypatch.context() as patched:
            patched.setattr("stillhouse.generate.batching.CACHE", 0)
            patched.setattr(f"stillhouse.generate.batching.{limit}", least)
            assert generate(model, asked, GREEDY, on_batch=done.append) == expected
        assert sum(done) == 9 and 2 < len(done) < 9
        with monkeypatch.context() as patched:
            patched.setattr(f"stillhouse.generate.batching.{limit}", 1)
            assert generate(model, asked, GREEDY) == expected


def test_rows_that_stop_leave_and_the_others_go_on(model: Model) -> None:
    asked = prompts(6, shared=0, seed=1)
    free = generate(model, asked, Sampling(max_new_tokens=12))
    stops = frozenset({free[0][3], free[1][0], free[2][7]})
    stopping = replace(model, stop_ids=stops)
    seen: list[list[int]] = []
    answers = generate(stopping, asked, Sampling(12), on_step=lambda rows, logits: seen.append(list(rows)))
    cut = [next((i for i, t in enumerate(answer) if t in stops), 12) for answer in free]
    assert answers == [answer[:n] for answer, n in zip(free, cut, strict=True)]
    assert [len(rows) for rows in seen] == [
        sum(n >= step for n in cut) for step in range(max(cut[i] for i in range(6)) + 1)
    ][:12]


def test_on_step_sees_the_logits_each_token_is_chosen_from(model: Model) -> None:
    asked = prompts(3, shared=0, seed=2)
    chosen: list[list[int]] = [[], [], []]

    def keep(rows: list[int], logits_NV: Tensor) -> None:
        assert logits_NV.dtype == torch.float32
        for row, token in zip(rows, logits_NV.argmax(-1).tolist(), strict=True):
            chosen[row].append(token)

    done: list[int] = []
    answers = generate(replace(model, stop_ids=frozenset()), asked, GREEDY, on_step=keep, on_batch=done.append, batch=2)
    assert chosen == answers
    assert done == [2, 1]


def test_a_score_is_the_direct_forward(model: Model) -> None:
    sequences = prompts(5, shared=0, seed=3)
    with torch.inference_mode():
        direct = [model.network(input_ids=torch.tensor([s])).logits[0].float() for s in sequences]
    scores = score(TorchRunner(model), sequences, lambda i, logits_TV: (i, logits_TV), batch_tokens=40)
    assert [i for i, _ in scores] == list(range(5))
    for (_, logits_TV), expected_TV in zip(scores, direct, strict=True):
        torch.testing.assert_close(logits_TV, expected_TV, atol=1e-4, rtol=1e-4)


def test_sampling_depends_on_the_seed_and_on_nothing_else_in_the_batch(random_model: Make) -> None:
    model = random_model("llama")
    sampling = Sampling(max_new_tokens=10, temperature=1.0, seed=7)
    asked = prompts(6, shared=5, seed=4)
    first = generate(model, asked, sampling)
    assert generate(model, asked, sampling) == first
    assert generate(model, asked, sampling, batch=1) == first
    assert generate(model, [p[5:] for p in asked], sampling, prefix=prefill(model, asked[0][:5])) == first
    changed = [*asked[:3], *prompts(3, shared=0, seed=5, longest=60)]
    assert generate(model, changed, sampling)[:3] == first[:3]
    assert generate(model, asked, replace(sampling, seed=8)) != first
    twins = generate(model, [asked[0]] * 4, sampling)
    assert len({tuple(t) for t in twins}) > 1, "the same question asked again is sampled anew"


def test_a_prompt_near_the_end_of_the_context_shortens_its_own_answer_alone(random_model: Make) -> None:
    model = replace(random_model("llama"), stop_ids=frozenset())
    (short,) = prompts(1, shared=3)
    long = prompts(1, shared=model.context - 8, longest=1)[0]
    assert len(long) == model.context - 7
    answers = generate(model, [long, short], GREEDY)
    assert [len(a) for a in answers] == [7, 9]
    assert answers[1] == generate(model, [short], GREEDY)[0]


def test_a_prompt_over_the_context_is_refused_in_one_line(random_model: Make) -> None:
    model = random_model("llama")
    full = [5] * model.context
    with pytest.raises(InputError, match=r"^prompt of 2048 tokens does not fit the model's context of 2048 tokens$"):
        generate(model, [full])
    assert len(generate(replace(model, stop_ids=frozenset()), [full[1:]])[0]) == 1
    prefix = prefill(model, full[:64])
    with pytest.raises(InputError, match="prompt of 2048 tokens"):
        generate(model, [full[64:]], prefix=prefix)


def test_nothing_asked_is_nothing_answered(random_model: Make) -> None:
    model = random_model("llama")
    assert generate(model, []) == []
    assert generate(model, [[5, 6]], Sampling(max_new_tokens=0)) == [[]]
    assert score(TorchRunner(model), [], lambda i, logits: i) == []


def test_a_common_prefix_leaves_every_prompt_something_of_its_own() -> None:
    assert common_prefix([[1, 2, 3], [1, 2, 3]]) == 2
    assert common_prefix([[1, 2, 3, 4], [1, 2, 9]]) == 2
    assert common_prefix([[1, 2], [3, 2]]) == 0
    assert common_prefix([[1], [1, 2]]) == 0


def test_batches_hold_every_row_once_within_their_tokens() -> None:
    lengths = [random.randint(1, 90) for _ in range(60)]
    groups = list(batches(lengths, 100))
    assert sorted(i for g in groups for i in g) == list(range(60))
    assert all(len(g) == 1 or max(lengths[i] for i in g) * len(g) <= 100 for g in groups)
    assert list(batches([500], 100)) == [[0]]
