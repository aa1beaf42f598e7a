"""What the command line does, one public function a verb: train, predict, evaluate, benchmark, quickstart."""
