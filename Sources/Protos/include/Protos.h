// The protobuf-c code that proto/generate makes from proto/*.proto, as one module.
#pragma once
#include "health.pb-c.h"
#include "inference.pb-c.h"
#include "sglang_scheduler.pb-c.h"
#include "vllm_engine.pb-c.h"
