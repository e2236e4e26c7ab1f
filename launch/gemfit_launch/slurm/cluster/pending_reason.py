"""Explanations of Slurm's reasons why a job is pending. Pure.

Limits of a QOS or an account have some 150 names that are made by one rule, so they are read by that rule.
"""

from __future__ import annotations

import re

_REASONS = {
    "AccountNotAllowed": "it never starts: the partition does not accept this account",
    "AccountingPolicy": "a limit of the account or the QOS",
    "AssociationJobLimit": "the account has as many jobs as it may have",
    "AssociationResourceLimit": "the account uses all that it may use",
    "AssociationTimeLimit": "the time of the account is used up",
    "BadConstraints": "it never starts: no node meets the constraints",
    "BeginTime": "it was requeued, and Slurm delays its start",
    "BurstBufferResources": "the burst buffer is full",
    "BurstBufferStageIn": "its files are copied into the burst buffer",
    "Cleaning": "it was requeued, and its processes are ending",
    "Dependency": "another job has to end first",
    "DependencyNeverSatisfied": "a job that it depends on has failed, so it never starts",
    "FedJobLock": "the clusters of the federation decide which of them starts it",
    "InvalidAccount": "it never starts: the account is not valid",
    "InvalidQOS": "it never starts: the QOS is not valid",
    "JobArrayTaskLimit": "the job array runs as many tasks as it may",
    "JobHeldAdmin": "held by an administrator",
    "JobHeldUser": "held by its user; `scontrol release JOB`",
    "JobHoldMaxRequeue": "held because it was requeued too often; `scontrol release JOB`",
    "Licenses": "a license that it needs is in use",
    "MaxMemPerLimit": "it never starts: more memory than the partition allows",
    "NodeDown": "a node that it needs is down",
    "None": "Slurm has not considered it yet",
    "PartitionConfig": "it never starts: the partition does not accept such a job",
    "PartitionDown": "the partition is down",
    "PartitionInactive": "the partition is closed",
    "PartitionNodeLimit": "it never starts: more nodes than the partition has or allows",
    "PartitionTimeLimit": "it never starts: a longer time limit than the partition allows",
    "Priority": "jobs of higher priority come first",
    "Prolog": "the prolog of a node runs",
    "QOSJobLimit": "the QOS has as many jobs as it may have",
    "QOSNotAllowed": "it never starts: the partition or the account does not accept this QOS",
    "QOSResourceLimit": "the jobs of the QOS use all that it may use",
    "QOSTimeLimit": "the time of the QOS is used up",
    "QOSUsageThreshold": "the account has used too much for this QOS",
    "ReqNodeNotAvail": "a node that it needs is down or reserved",
    "Reservation": "the reservation has not begun",
    "ReservationDeleted": "held because its reservation was deleted",
    "Resources": "not enough free nodes",
    "SchedDefer": "Slurm considers it in the next round",
    "job requeued in held state": "held after a requeue; `scontrol release JOB`",
    "launch failed requeued held": "held because it could not be started on a node; `scontrol release JOB`",
}

_NOT_PERMITTED = re.compile(r"Job's (account|QOS) not permitted to use this partition\b.*")
"""What Slurm writes where a partition names accounts or QOS."""
_LIMIT = re.compile(
    r"(?P<owner>QOS|Assoc|)(?P<kind>Grp|Max|Min)"
    r"(?P<what>BB|Billing|CPUs?|Cpu|Energy|GRES|Jobs?|License|Mem(?:ory)?|Node|SubmitJobs?|Unknown|WallDuration|Wall)"
    r"(?P<minutes>Run|)(?P<timed>Minutes|)(?P<scope>PerJob|PerNode|PerUser|PerAccount|)(?:Limit|NotSatisfied|)"
)
_WHAT = {
    "BB": "burst buffer",
    "Billing": "billing units",
    "CPU": "CPUs",
    "CPUs": "CPUs",
    "Cpu": "CPUs",
    "Energy": "energy",
    "GRES": "GPUs",
    "License": "licenses",
    "Mem": "memory",
    "Memory": "memory",
    "Node": "nodes",
    "Wall": "time",
    "WallDuration": "time",
}


def explain(reason: str) -> str:
    """The reason as Slurm writes it, with an explanation where there is one."""
    # scontrol writes sentences with underscores, squeue with blanks; some reasons have more after a comma.
    words = reason.partition(",")[0]
    found = _REASONS.get(words) or _REASONS.get(words.replace("_", " ")) or _explain_limit(words)
    return f"{reason}: {found}" if found else reason


def _explain_limit(reason: str) -> str:
    if (refused := _NOT_PERMITTED.fullmatch(reason.replace("_", " "))) is not None:
        return f"it never starts: the partition does not accept this {refused[1]}"
    found = _LIMIT.fullmatch(reason)
    if found is None:
        return ""
    owner = "the account" if found["owner"] == "Assoc" else "the QOS"
    what = _WHAT.get(found["what"], "jobs" if "Job" in found["what"] else "of a resource")
    if found["timed"]:
        what = f"minutes of {what}"
    if found["kind"] == "Min":
        return f"it never starts: {owner} asks for more {what}"
    if found["scope"] in ("PerJob", "PerNode"):
        return f"it never starts: more {what} than {owner} allows per {found['scope'][3:].lower()}"
    if found["kind"] == "Grp" and found["timed"] and not found["minutes"]:
        return f"{owner} has used up its {what}"
    if found["scope"] == "PerAccount":
        return f"the jobs of the account have as many {what} as the QOS allows"
    if found["kind"] == "Grp":
        alone = "" if what == "jobs" else "; one that alone asks for more never starts"
        return f"all jobs of {owner} together have as many {what} as it allows{alone}"
    return f"you have as many {what} as {owner} allows"
