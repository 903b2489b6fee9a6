"""Counts what passed, failed and was skipped in a report of the suite, and holds it against `skips`."""

import json
import sys


def main(report, skips):
    with open(skips, encoding="utf-8") as file:
        lines = [line.strip() for line in file]
    allowed = {line.split(" | ")[0]: line for line in lines if line and not line.startswith("#")}
    outcomes = {}
    with open(report, encoding="utf-8") as file:
        for line in file:
            event = json.loads(line)
            if "Test" in event and event.get("Action") in ("pass", "fail", "skip"):
                outcomes[event["Test"]] = event["Action"]
    # A test with parts is as good as its parts.
    leaves = {name for name in outcomes if not any(other.startswith(name + "/") for other in outcomes)}
    names = {action: sorted(n for n in leaves if outcomes[n] == action) for action in ("pass", "fail", "skip")}
    tops = {name.split("/")[0] for name in names["skip"]}
    unexplained = sorted(top for top in tops if top not in allowed)
    for name in names["fail"]:
        print(f"FAILED  {name}")
    for top in sorted(tops):
        print(f"skipped {allowed.get(top, top + ' | for no reason that `skips` gives')}")
    print(f"{len(names['pass'])} passed, {len(names['fail'])} failed, {len(names['skip'])} skipped")
    return 1 if names["fail"] or unexplained or not names["pass"] else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
