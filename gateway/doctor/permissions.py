"""The IAM actions that the doctor's calls need, which are all that it makes, and a policy of just those."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, Final

from gateway.places import Place

# Every call of the doctor; one that is not here is not made. All of them only read.
ACTIONS: Final[Mapping[tuple[str, str], str]] = MappingProxyType(
    {
        ("sts", "GetCallerIdentity"): "sts:GetCallerIdentity",
        ("bedrock", "GetFoundationModel"): "bedrock:GetFoundationModel",
        ("bedrock", "GetFoundationModelAvailability"): "bedrock:GetFoundationModelAvailability",
        ("bedrock", "GetAccountDataRetention"): "bedrock:GetAccountDataRetention",
        (
            "bedrock",
            "GetModelInvocationLoggingConfiguration",
        ): "bedrock:GetModelInvocationLoggingConfiguration",
        ("bedrock", "ListInferenceProfiles"): "bedrock:ListInferenceProfiles",
        ("s3", "GetBucketLocation"): "s3:GetBucketLocation",
        ("ec2", "DescribeVpcEndpoints"): "ec2:DescribeVpcEndpoints",
    }
)


def policy_document(places: Iterable[Place]) -> dict[str, Any]:
    """An IAM policy with exactly the doctor's actions, in the regions of these Bedrock places only."""
    used = sorted({place.region for place in places if place.region})
    return {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Sid": "DouaneDoctorReads",
                "Effect": "Allow",
                "Action": sorted(ACTIONS.values()),
                "Resource": "*",
                "Condition": {"StringEquals": {"aws:RequestedRegion": used}},
            }
        ],
    }
