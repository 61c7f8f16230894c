"""What tests share: toy data checked by hand, planted structures, contract suites."""
