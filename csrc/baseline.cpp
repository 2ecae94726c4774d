#define ATTNCONV_WIDTH 4
#define ATTNCONV_TILE_VECTORS 2
#define ATTNCONV_UNIT attnconv_unit_baseline
#define ATTNCONV_NAME "baseline"
#include "kernel.h"
