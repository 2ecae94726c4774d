#define ATTNCONV_WIDTH 8
#define ATTNCONV_TILE_VECTORS 2
#define ATTNCONV_UNIT attnconv_unit_avx2
#define ATTNCONV_NAME "avx2"
#include "kernel.h"
