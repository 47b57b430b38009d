"""Queries on BigQuery: what they will bill is found by a dry run first, and agreed to or refused.

Project and credentials come from the environment: ``GOOGLE_CLOUD_PROJECT`` and Google's application default
credentials. ``BIGQUERY_EMULATOR_HOST`` names another server, which gets no credentials.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import google.auth
import pandas as pd
import requests
import typer
from google.api_core import exceptions
from google.api_core.retry import Retry
from google.auth import exceptions as auth_exceptions
from google.auth.credentials import AnonymousCredentials, Credentials
from google.cloud import bigquery

from ctfm.config import Select
from ctfm.errors import UserError

log = logging.getLogger(__name__)

LIMIT = "select.bigquery_limit_gigabytes"
GB = 1e9
# A query bills at least 10 MB (2^20 bytes each) for every table that it reads, and whole MB.
ROUNDING = 2 * 11 * 2**20
# How long the network or the server may be out of order.
RETRY = bigquery.DEFAULT_RETRY.with_timeout(120.0)
# A dry run is no job that could fail and be repeated; left alone the client would, for 10 minutes.
ONCE = Retry(predicate=lambda _: False)
LOGIN = "log in with 'gcloud auth application-default login'"
# The paper's query needs no account on DuckDB.
OTHERWISE = "or set select.backend to duckdb"


def run(queries: list[str], select: Select) -> tuple[list[pd.DataFrame], dict[str, Any]]:
    """Run queries and fetch their rows.

    Args:
        queries: in BigQuery's dialect.
        select: how much may be billed for all of them without asking.

    Returns:
        The rows of each query, and facts: the bytes that were estimated and billed (cached results bill none).

    Raises:
        UserError: no project, credentials or permission; no answer; or too much would be billed, and the person at the
            terminal said no or there is none.
    """
    with _explained():
        client = _client()
        estimates = [_estimate(client, query) for query in queries]
        allowed = _agreed(sum(estimates), select.bigquery_limit_gigabytes, len(queries))
        frames, billed = [], 0
        for query in queries:
            # Should the estimate be wrong, BigQuery refuses the job and bills nothing.
            guard = bigquery.QueryJobConfig(maximum_bytes_billed=allowed - billed)
            job = client.query(query, job_config=guard, retry=RETRY, api_method="QUERY")
            frames.append(_frame(job.result(retry=RETRY)))
            billed += job.total_bytes_billed or 0
    log.info("BigQuery: %.2f GB were billed", billed / GB)
    return frames, {"bytes_estimated": sum(estimates), "bytes_billed": billed}


def _client() -> bigquery.Client:
    credentials: Credentials = AnonymousCredentials()
    project = os.environ.get("GOOGLE_CLOUD_PROJECT")
    if "BIGQUERY_EMULATOR_HOST" not in os.environ:
        credentials, project = google.auth.default(scopes=bigquery.Client.SCOPE)  # looks at the variable first
    if not project:
        raise UserError(f"GOOGLE_CLOUD_PROJECT: not set; name the Google Cloud project that pays, {OTHERWISE}")
    return bigquery.Client(project=project, credentials=credentials)


def _estimate(client: bigquery.Client, query: str) -> int:
    dry = bigquery.QueryJobConfig(dry_run=True, use_query_cache=False)
    return client.query_and_wait(query, job_config=dry, retry=RETRY, job_retry=ONCE).total_bytes_processed or 0


def _agreed(estimate: int, limit_gigabytes: float, queries: int) -> int:
    """Return how many bytes may be billed; ask first when they are more than the limit."""
    says = f"the paper's query will bill {estimate / GB:.2f} GB on BigQuery ({LIMIT}: {limit_gigabytes:g})"
    log.info("%s", says)
    limit = int(limit_gigabytes * GB)
    if estimate <= limit:
        return limit
    if not sys.stdin.isatty():
        raise UserError(f"{LIMIT}: {says}; raise it, run 'ctfm select' in a terminal to be asked, {OTHERWISE}")
    if not typer.confirm(f"{says}. Go on?", err=True):
        raise UserError(f"{LIMIT}: {says}, which was refused; raise it, {OTHERWISE}")
    return estimate + ROUNDING * queries


def _frame(rows: Any) -> pd.DataFrame:
    """Fetch all pages. The client's own to_dataframe needs further packages."""
    return pd.DataFrame([row.values() for row in rows], columns=[field.name for field in rows.schema])


@contextmanager
def _explained() -> Iterator[None]:
    """Turn errors into what the user can mend. What Google says of accounts and tokens is not passed on."""
    try:
        yield
    except auth_exceptions.TransportError:
        raise UserError(f"BigQuery: can't be reached to log in; check the network, {OTHERWISE}") from None
    except auth_exceptions.GoogleAuthError:
        raise UserError(f"BigQuery: no valid credentials were found; {LOGIN}, {OTHERWISE}") from None
    except (exceptions.Unauthorized, exceptions.Forbidden) as error:
        raise UserError(
            f"BigQuery: refused ({error.code} {_said(error, 'reason')}); the account needs the role 'BigQuery Job "
            f"User' in the project that GOOGLE_CLOUD_PROJECT names, and that project billing or a free quota; {LOGIN} "
            f"as another account, {OTHERWISE}"
        ) from None
    except exceptions.ClientError as error:
        said = f"{error.code} {_said(error, 'reason')}: {_said(error, 'message')}"
        raise UserError(
            f"BigQuery: {said}; check GOOGLE_CLOUD_PROJECT, {LIMIT} and the releases of the corpus, {OTHERWISE}"
        ) from None
    except (exceptions.GoogleAPIError, requests.RequestException) as error:
        cause = getattr(error, "cause", None) or error
        raise UserError(
            f"BigQuery: no answer ({type(cause).__name__}); check the network, try later, {OTHERWISE}"
        ) from None


def _said(error: exceptions.GoogleAPICallError, key: str) -> str:
    first: dict[str, Any] = next(iter(error.errors), {})
    return str(first.get(key, "")) or "no reason given"
