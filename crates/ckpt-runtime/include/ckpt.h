/* ckpt.h: checkpoints from inside a program that is linked with libckpt.a ("ckptctl build", "ckptctl cc").
 *
 * No call is needed for Ctrl+C to save the program and for "PROGRAM -r" to restore it. This header is for programs
 * that choose the moment themselves. All functions may be called from any thread. C and C++.
 */
#ifndef CKPT_H
#define CKPT_H

#ifdef __cplusplus
extern "C" {
#endif

/* What ckpt_checkpoint() returns, like fork(): once in the process that was saved, once in each that is restored. */
#define CKPT_SAVED 0
#define CKPT_RESTORED 1

/* Saves this process, with all its threads, to PROGRAM.ckpt (or $CKPT_FILE), replacing an older image.
 * CKPT_SAVED:    the image is complete and on disk; the program goes on.
 * CKPT_RESTORED: this is the restored program.
 * -1:            nothing was saved, errno is set, and ckpt_error() says why. The program is unharmed.
 *                EBUSY       between ckpt_hold() and ckpt_release(), or another checkpoint is under way
 *                EOPNOTSUPP  the process has something that cannot be saved
 *                EPERM       the system does not allow it
 *                EIO         the image could not be written
 *                others      the engine could not be started (EAGAIN, ENOMEM ...)
 * Ctrl+C during the call is acted upon when it is over. Not to be called from a signal handler. */
int ckpt_checkpoint(void);

/* The same, to the file PATH, which is relative to the current directory. */
int ckpt_checkpoint_to(const char *path);

/* What went wrong in the calling thread's last call that returned -1, and what to do; never NULL. Valid until the next
 * checkpoint. */
const char *ckpt_error(void);

/* Hooks around every checkpoint that the program takes of itself, by ckpt_checkpoint() or on Ctrl+C: BEFORE functions
 * before it, the last registered first; AFTER functions after it, the first registered first, with restored = 1 in the
 * restored process and 0 in the one that goes on, also when nothing was saved. A process that ends with the save (Ctrl+C,
 * as a rule) runs its AFTER functions when it is restored.
 *
 * On Ctrl+C they run inside the signal handler, on whichever thread was interrupted: only what signal-safety(7) allows
 * is safe there (no malloc, no stdio, no locks), unless Ctrl+C can only strike at points that you choose: keep ckpt_hold()
 * everywhere else. They must not throw. A checkpoint that is taken from outside ("ckptctl checkpoint --pid") runs no hooks.
 *
 * Return 0, or -1 with errno ENOMEM (32 of each are the limit) or EINVAL (fn is NULL). Hooks stay for the program's life. */
int ckpt_before(void (*fn)(void *), void *arg);
int ckpt_after(void (*fn)(int restored, void *arg), void *arg);

/* A critical section in which the program takes no checkpoint of itself. Nestable; it counts for the whole process.
 * Ctrl+C meanwhile is remembered and acted upon at the last ckpt_release(), on that thread. ckpt_hold() waits while
 * another thread takes a checkpoint. A checkpoint that is taken from outside does not know of it. */
void ckpt_hold(void);
void ckpt_release(void);

#ifdef __cplusplus
}
#endif

#endif
