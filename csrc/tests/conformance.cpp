// The conformance program in the simulator: what a GPU must reproduce.
#include "tests/conformance.cu"
