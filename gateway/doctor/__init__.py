"""`douane doctor`: what an AWS account and this machine do beside the policy, looked at and judged."""
