"""The section of docs/performance.md on two hosts."""

from typing import Any

from benchmarks.shared.pages import machine, table


def predicted_hosts_section(result: dict[str, Any]) -> str:
    rows = []
    for one in result["rates"]:
        rate = f"{one['link_gbit_per_s']:g} Gbit/s"
        for stage in one["stages"]:
            names = ("predicted_step_s", "predicted_exchange_s", "measured_step_s")
            ms = [f"{1000 * stage[name]:.1f} ms" for name in names]
            rows.append([rate, f"{stage['num_kept']}", *ms, f"{stage['difference']:+.1%}"])
        whole = [f"{one['predicted_s']:.2f} s", "", f"{one['measured_s']:.2f} s"]
        rows.append([rate, "whole run", *whole, f"{one['difference']:+.1%}"])
    counted = [
        [f"{one['zero_stage']}", *(f"{one[name]:,.0f}" for name in ("predicted_bytes", "counted_bytes"))]
        for one in result["bytes"]
    ]
    whole_times = "; ".join(
        f"{one['link_gbit_per_s']:g} Gbit/s: " + ", ".join(f"{seconds:.2f}" for seconds in one["measured_s_of_turns"])
        for one in result["rates"]
    )
    return "\n".join(
        [
            "## Two hosts, predicted from one\n",
            machine(result),
            "\nTwo hosts are namespaces of one machine, each a rank on a core of its own; a profile of the first told "
            "what a step on both takes over lines of two rates. Steps are those of the fastest windows of both sides; "
            f"whole times of the {result['turns']} turns, in s: {whole_times}. ZeRO 0.\n",
            table(["line", "patches", "predicted", "of it exchange", "measured", "difference"], rows),
            "\nBytes that a host sends in a step of two passes of another model (counted as its network device does, "
            "with headers and answers):\n",
            table(["ZeRO", "predicted", "counted"], counted),
        ]
    )
