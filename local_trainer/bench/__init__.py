"""What ``local-trainer bench`` measures; each module returns its figures as a dict."""
