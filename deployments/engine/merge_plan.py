"""How one call may be merged with others: the roles of its arguments, and its batch key."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import torch

from deployments.engine.call_arguments import CallArguments, bind, tensors_in
from deployments.engine.content import Digests
from deployments.engine.declarations import NOTHING, Declaration
from deployments.engine.roles import Leaf, Refused, Role, RoleFinder, Roles, Rows
from deployments.engine.stand_in import DenoiserCall
from deployments.engine.weaving import Parting, masks, weave


@dataclass(frozen=True, slots=True)
class MergePlan:
    """Calls with equal keys may share a forward."""

    arguments: CallArguments
    roles: dict[str, Roles]
    rows: Rows
    declared: Declaration
    signature: Hashable  # shapes and types: what recurs from request to request
    contents: Hashable  # values that have to be equal

    @property
    def device(self) -> torch.device:
        return next(tensors_in(self.arguments.main())).device


def plan_of(call: DenoiserCall, digests: Digests, declared: Declaration = NOTHING) -> MergePlan:
    """``Refused`` with the reason when the call is not to be merged. ``declared``: of its module's
    class."""
    if declared.solo:
        raise Refused(declared.solo)
    try:
        arguments = bind(call.module, call.arguments, call.keywords, call.method)
    except TypeError as error:
        raise Refused(f"arguments that {_name(call)} does not take") from error
    rows = Rows.of(arguments.main())
    finder = RoleFinder(rows, declared, digests)
    roles: dict[str, Roles] = {}
    kinds: list[Hashable] = []
    contents: list[Hashable] = []
    for name, value in arguments.named.items():
        if name in declared.unused:
            roles[name], kind, content = Leaf(Role.CONSTANT), "unused", None
        else:
            roles[name], (kind, content) = finder.find(name, value)
        if name != declared.mask:
            kinds.append((name, kind))
            contents.append(content)
    signature = (call.method, rows.count, arguments.positional, tuple(kinds))
    return MergePlan(arguments, roles, rows, declared, signature, tuple(contents))


def _name(call: DenoiserCall) -> str:
    return "forward" if call.method == "__call__" else call.method


def woven(plans: Sequence[MergePlan]) -> CallArguments:
    """The arguments of one call in place of all of them; ``plans`` agree in all but values."""
    first = plans[0]
    rows, device = first.rows.count, first.device
    given = [plan.arguments.named for plan in plans]
    named = {
        name: weave(first.roles[name], [each[name] for each in given], rows, device)
        for name in first.roles
        if name != first.declared.mask
    }
    if first.declared.mask:
        padded, dimension = next(iter(first.declared.pad.items()))
        lengths = [each[padded].shape[dimension] for each in given]
        named[first.declared.mask] = masks(
            [each.get(first.declared.mask) for each in given], lengths, rows, device
        )
    return first.arguments.with_values(named)


def parting(plans: Sequence[MergePlan]) -> Parting:
    rows = plans[0].rows
    return Parting(len(plans), rows.count, rows.listed)
