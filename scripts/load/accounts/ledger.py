"""An account of all requests of a run, which nothing may be missing from."""

import re
from collections import Counter
from collections.abc import Iterable
from http import HTTPStatus

from prometheus_client.parser import text_string_to_metric_families

from scripts.load.accounts.exchange import STAY, Answer, Leave, exchange
from scripts.load.accounts.outcomes import Outcome, error_code, judge
from scripts.load.streams import Address

__all__ = ["Ledger", "access_lines", "counted_requests"]

_MAX_NOTES = 20
_QUIET_PATHS = {"/health", "/ready", "/metrics"}  # which have a line at the level `debug` only
_ACCESS = re.compile(r" server\.access \[([^\]]+)\] \S+ \S+ (\d+) ")


class Ledger:
    """Counts how requests ended: each that was sent ends in exactly one way, and each way is explained.

    `sent = completed + refused + failed with an error + cancelled by the client + not connected`

    Requests that are not sent with `send` are opened with `open` and closed with `close`.
    """

    def __init__(self) -> None:
        self.num_sent = 0
        self.outcomes: Counter[Outcome] = Counter()
        self.codes: Counter[str] = Counter()  # statuses and error codes of what was not completed
        self.notes: list[str] = []  # of the first that are unexplained
        self.num_server_errors = 0  # statuses of 5xx other than 503 and 504
        self._ids: Counter[str] = Counter()  # of whole answers
        self._counts: Counter[str] = (
            Counter()
        )  # of the same answers, as `counted_requests` has them

    async def send(
        self,
        address: Address,
        request: bytes,
        *,
        leave: Leave = STAY,
        name: str = "",
        may_close: bool = False,
    ) -> Answer:
        """Send a request and enter how it ended; see `exchange`.

        Args:
            address, request, leave: Those of `exchange`.
            name: Says in notes which request it was.
            may_close: Whether a closed connection, without an answer, is a refusal too.
        """
        self.open()
        answer = await exchange(address, request, leave=leave)
        self.close(answer, name, may_close=may_close)
        return answer

    def open(self) -> None:
        """A request is being sent."""
        self.num_sent += 1

    def close(self, answer: Answer, name: str = "", *, may_close: bool = False) -> Outcome:
        """A request has ended; see `send`."""
        outcome, note = judge(answer)
        if may_close and answer.is_connected and not answer.status:
            outcome = Outcome.REFUSED
        self.outcomes[outcome] += 1
        if outcome is Outcome.UNEXPLAINED:
            self._note(f"{name or answer.path}: {note}")
        if answer.status >= HTTPStatus.BAD_REQUEST:
            self.codes[f"{answer.status} {error_code(answer)}"] += 1
            self.num_server_errors += answer.status in (500, 501, 502) or answer.status > 504
        is_logged = answer.path.partition("?")[0] not in _QUIET_PATHS
        if is_logged and answer.is_whole and "x-request-id" in answer.headers:
            self._ids[answer.headers["x-request-id"]] += 1
            self._counts.update([f"status={answer.status}", f"outcome={_outcome(outcome, answer)}"])
        return outcome

    @property
    def num_unexplained(self) -> int:
        """Requests that have not ended, or in a way that must not be."""
        return self.num_sent - sum(
            count for outcome, count in self.outcomes.items() if outcome is not Outcome.UNEXPLAINED
        )

    @property
    def identity(self) -> str:
        """The equation, with its numbers."""
        explained = [outcome for outcome in Outcome if outcome is not Outcome.UNEXPLAINED]
        sum_ = " + ".join(f"{self.outcomes[outcome]} {outcome}" for outcome in explained)
        return f"{self.num_sent} sent = {sum_}; unexplained {self.num_unexplained}"

    def compare_with_log(self, lines: Iterable[str]) -> list[str]:
        """What is wrong between the whole answers and the access lines of the servers' logs, if anything.

        Every request with an id has one line, whose status is the answer's; requests that were refused
        before they were parsed have neither. Requests that were cancelled may have a line.
        """
        found = Counter(request_id for request_id, _ in access_lines(lines))
        wrong = {key: count for key, count in self._ids.items() if found[key] != count}
        return [f"{found[key]} log lines of request {key}" for key in list(wrong)[:_MAX_NOTES]]

    def compare_with_metrics(self, before: str, after: str) -> list[str]:
        """What is wrong between the whole answers and the server's metrics, if anything.

        Every whole answer is counted, with its status and outcome. Requests that were cancelled may be
        counted, whatever the server did for them.

        Args:
            before, after: What `/metrics` was before the first request, and after the end of the last one.
        """
        counts = counted_requests(after)
        counts.subtract(counted_requests(before))
        wrong = []
        for kind in ("status", "outcome"):
            differences = [
                counts[name] - self._counts[name]
                for name in counts.keys() | self._counts.keys()
                if name.startswith(kind)
            ]
            num_more = sum(max(difference, 0) for difference in differences)
            if min(differences, default=0) < 0 or num_more > self.outcomes[Outcome.CANCELLED]:
                wrong.append(f"by {kind}: {dict(counts)} counted, {dict(self._counts)} answered")
        return wrong

    def _note(self, note: str) -> None:
        if len(self.notes) < _MAX_NOTES:
            self.notes.append(note)


def counted_requests(metrics: str) -> Counter[str]:
    """The requests that `/metrics` has counted, by status and by outcome, without probes and scrapes."""
    counts: Counter[str] = Counter()
    for family in text_string_to_metric_families(metrics):
        for sample in family.samples:
            labels = sample.labels
            if labels.get("route") in _QUIET_PATHS:
                continue
            if sample.name == "internvl_http_responses_total":
                counts[f"status={labels['status']}"] += int(sample.value)
            elif sample.name == "internvl_requests_total":
                counts[f"outcome={labels['outcome']}"] += int(sample.value)
    return counts


def _outcome(outcome: Outcome, answer: Answer) -> str:
    """What the server calls it."""
    if outcome is Outcome.COMPLETED:
        return "ok"
    is_refusal = outcome is Outcome.REFUSED and answer.status < HTTPStatus.INTERNAL_SERVER_ERROR
    return "refused" if is_refusal else "failed"


def access_lines(lines: Iterable[str]) -> list[tuple[str, int]]:
    """Ids and statuses of the requests in a log."""
    matches = [match for line in lines if (match := _ACCESS.search(line))]
    return [(match[1], int(match[2])) for match in matches]
