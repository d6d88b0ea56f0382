"""A machine as a Mermaid diagram. The same definition gives the same text."""

from datetime import timedelta

from .definition import Definition, Rule

_PLAIN = frozenset(" _-.,()'/")
_UNITS = (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1))


def diagram(definition: Definition) -> str:
    """The text of a `stateDiagram-v2`. States get ids of our own: their names may hold anything."""
    ids = {name: f"s{number}" for number, name in enumerate(definition.by_name)}
    lines = ["stateDiagram-v2"]
    lines += [f'    state "{_escaped(name)}" as {id}' for name, id in ids.items()]
    lines.append(f"    [*] --> {ids[definition.initial]}")
    lines += [
        f"    {ids[rule.source]} --> {ids[rule.to]} : {_escaped(_label(definition, rule))}" for rule in definition.rules
    ]
    lines += [f"    {ids[state.name]} --> [*]" for state in definition.by_name.values() if state.final]
    return "\n".join(lines) + "\n"


def _label(definition: Definition, rule: Rule) -> str:
    state = definition.by_name[rule.source]
    after = f" after {_span(state.timeout)}" if state.timeout and state.on_timeout == rule.event else ""
    return f"{rule.event}{f' [{rule.guard_name}]' if rule.guard_name else ''}{after}"


def _span(timeout: timedelta) -> str:
    """A time as its two largest units, such as `1 d 12 h`; below a second in milliseconds."""
    left = timeout.total_seconds()
    if left < 1:
        return f"{left * 1000:g} ms"
    parts = []
    for unit, seconds in _UNITS:
        count, left = divmod(left, seconds)
        if count:
            parts.append(f"{count:g} {unit}")
    return " ".join(parts[:2])


def _escaped(text: str) -> str:
    """`text` with Mermaid's own characters as entities, so that no name can end a label or begin a line."""
    return "".join(sign if sign.isalnum() or sign in _PLAIN else f"#{ord(sign)};" for sign in text)
