// The conformance program in the simulator: what a GPU must reproduce.
#include "hostsim/tests/conformance.cu"
