/* A PKCS#11 module that passes everything on to the module named by HANG_BEHIND; but while the file named by HANG_WHILE is there,
   C_Sign does not come back. */
#include <dlfcn.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#define FUNCTIONS 68 /* of PKCS#11 2.40, in the order of its CK_FUNCTION_LIST */
#define C_SIGN 43
#define CKR_GENERAL_ERROR 5UL

typedef unsigned long CK_ULONG;
typedef CK_ULONG (*Sign)(CK_ULONG session, void *data, CK_ULONG length, void *signature, CK_ULONG *size);

struct list {
	unsigned char version[2];
	void *functions[FUNCTIONS];
};

static struct list ours;
static Sign behind;

static CK_ULONG sign(CK_ULONG session, void *data, CK_ULONG length, void *signature, CK_ULONG *size)
{
	const char *file = getenv("HANG_WHILE");
	const struct timespec moment = {0, 10 * 1000 * 1000};
	while (file && access(file, F_OK) == 0)
		nanosleep(&moment, NULL);
	return behind(session, data, length, signature, size);
}

CK_ULONG C_GetFunctionList(struct list **out)
{
	const char *path = getenv("HANG_BEHIND");
	void *library = path ? dlopen(path, RTLD_NOW | RTLD_LOCAL) : NULL;
	CK_ULONG (*get)(struct list **) = library ? (CK_ULONG(*)(struct list **))dlsym(library, "C_GetFunctionList") : NULL;
	struct list *theirs = NULL;
	CK_ULONG result = get ? get(&theirs) : CKR_GENERAL_ERROR;
	if (result)
		return result;
	ours = *theirs;
	behind = (Sign)ours.functions[C_SIGN];
	ours.functions[C_SIGN] = (void *)sign;
	*out = &ours;
	return 0;
}
