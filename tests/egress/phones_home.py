"""Fetches a list of prices when it is imported."""

import urllib.request

urllib.request.urlopen("https://prices.exfiltration.example/list.json", timeout=0.4)
