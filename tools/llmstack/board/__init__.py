"""The readiness board: releases with their evidence, alerts and changes, and the sign-offs of reviewers."""
