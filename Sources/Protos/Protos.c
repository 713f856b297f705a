#include "Protos.h"
